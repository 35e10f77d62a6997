"""The kernel's side of one volume: one change at a time, in a pool that nothing else waits for.

A removal waits in the kernel for what is in flight. One that began while a worker served that, and whose
worker ends or lets go of the ring before it has, would wait for ever: then everything is answered beside it.
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.target.lio_export import Export, Present
from holdfast.target.tools import Tools

log = logging.getLogger(__name__)

RETRY_S = 1.0
CHECK_S = 60.0
"""How often the kernel's configuration is compared although nothing has changed."""
STUCK_S = 30.0


class VolumeExport:
    """What the kernel exports of a volume (`present`, None while unknown), and the change under way.

    Loop thread only. `changed` is called when a change has ended.
    """

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._running_since_s: float | None = None
        self._converged: tuple[Export | None, bool] | None = None
        self._converged_s = 0.0
        self._not_before_s = 0.0
        self._failure = ""
        self._served = False
        """The ring was in use since the change under way began, or since everything was answered."""
        self._answering = False
        self._present: Present | None = None

    @property
    def present(self) -> Present | None:
        """Not known while everything is answered: a worker that opened its ring then would lose it."""
        return None if self._answering else self._present

    @property
    def nothing(self) -> bool:
        return self.present is not None and self.present.nothing

    @property
    def trouble(self) -> str:
        since = self._running_since_s
        if since is not None and self._tools.loop.now() - since > STUCK_S:
            return f"The kernel has not finished a change to the export of volume {self._uid} for long."
        return self._failure

    def converge(self, wanted: Export | None, ring_in_use: bool) -> None:
        """Begin to make the export `wanted`, unless it is, or a change is under way."""
        now_s = self._tools.loop.now()
        if self._running_since_s is not None:
            self._keep_answered(wanted, ring_in_use)
            return
        if self._answering or now_s < self._not_before_s:
            return
        target = (wanted, ring_in_use)
        if target == self._converged and now_s - self._converged_s < CHECK_S:
            return
        self._running_since_s = now_s
        self._served = ring_in_use
        self._tools.in_lio_pool(
            partial(self._tools.lio.converge, self._uid, wanted, ring_in_use),
            partial(self._done, target),
            self._failed,
        )

    def _keep_answered(self, wanted: Export | None, ring_in_use: bool) -> None:
        """What is still exported then gets another worker, which empties the ring when it opens it."""
        if ring_in_use or wanted is not None:
            self._served = self._served or ring_in_use
            return
        if not self._served or self._answering:
            return
        self._served, self._answering = False, True
        log.info("volume %s: nobody serves its ring while its export goes: all is answered", self._uid)
        # Not in the pool of the changes: those that wait for this may have all of its threads.
        self._tools.loop.in_pool(
            partial(self._tools.lio.answer_everything, self._uid), self._answered, self._not_answered
        )

    def _answered(self, _nothing: None) -> None:
        self._answering = False
        self._changed()

    def _not_answered(self, error: BaseException) -> None:
        self._answering, self._served = False, True
        log.error("volume %s: %s", self._uid, error)
        self._tools.loop.call_later(RETRY_S, self._changed)

    def _done(self, target: tuple[Export | None, bool], present: Present) -> None:
        self._running_since_s = None
        self._converged, self._converged_s = target, self._tools.loop.now()
        self._failure = ""
        self._present = present
        self._changed()

    def _failed(self, error: BaseException) -> None:
        self._running_since_s = None
        self._converged = None
        self._failure = str(error)
        self._not_before_s = self._tools.loop.now() + RETRY_S
        log.error("volume %s: %s", self._uid, error)
        self._tools.loop.call_later(RETRY_S, self._changed)
