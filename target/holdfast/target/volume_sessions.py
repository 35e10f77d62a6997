"""Whether the initiators of a volume have lost their way to its primary, and only that.

Two things are seen: a mirror refuses I/O of an initiator, and none is logged in here. They do not come
together. An initiator whose path is cut tries the standby path at once, once, and queues then; that its
session is gone the kernel finds some seconds later (lio_sessions.py). So I/O that was refused up to
REFUSED_RECENT_S before the last session went counts, and goes on counting until somebody logs in here again:
a move that may not be made yet (PATH_MOVE_MIN_S) is made when it may.

The kernel is asked only while it matters.
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.target.tools import Tools

log = logging.getLogger(__name__)

ASK_S = 1.0
REFUSED_RECENT_S = 20.0


class PathWatch:
    """What was seen, and what follows from it. Pure: times are told."""

    def __init__(self) -> None:
        self._refused_s: float | None = None
        self._empty_since_s: float | None = None

    def refused(self, at_s: float) -> None:
        """A mirror refused an initiator's I/O."""
        self._refused_s = max(at_s, self._refused_s or at_s)

    def asked(self, anybody: bool, at_s: float) -> None:
        """Whether anybody is logged in here."""
        if anybody:
            self._empty_since_s = None
        elif self._empty_since_s is None:
            self._empty_since_s = at_s

    def matters(self, now_s: float) -> bool:
        """Whether it is worth asking who is logged in."""
        recent = self._refused_s is not None and now_s - self._refused_s <= REFUSED_RECENT_S
        return recent or self.cut_s(now_s) > 0

    def cut_s(self, now_s: float) -> float:
        """For how long initiators that have I/O have had no session here; 0 while that is not so."""
        if self._refused_s is None or self._empty_since_s is None:
            return 0.0
        if self._refused_s < self._empty_since_s - REFUSED_RECENT_S:
            return 0.0
        return now_s - self._empty_since_s

    def forget(self) -> None:
        self._refused_s = self._empty_since_s = None


class VolumeSessions:
    """A PathWatch, and the kernel. Loop thread only. `changed` is called when it is time to look again."""

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._watch = PathWatch()
        self._asking = False
        self._asked_s = 0.0

    def cut_s(self, standby_io_age_s: float, initiators: frozenset[str]) -> float:
        """See PathWatch. Asks the kernel again, if need be; called often.

        Args:
            standby_io_age_s: as in Observed.
            initiators: those that are attached.
        """
        now_s = self._tools.loop.now()
        if not initiators:
            self._watch.forget()
            return 0.0
        if standby_io_age_s >= 0:
            self._watch.refused(now_s - standby_io_age_s)
        if self._watch.matters(now_s) and not self._asking and now_s - self._asked_s >= ASK_S:
            self._asking, self._asked_s = True, now_s
            ask = partial(self._tools.lio.logged_in, self._uid)
            self._tools.in_lio_pool(ask, partial(self._answered, initiators), self._failed)
        return self._watch.cut_s(now_s)

    def forget(self) -> None:
        """This host is not the primary: nothing is known of who reaches it."""
        self._watch.forget()

    def _answered(self, initiators: frozenset[str], logged_in: frozenset[str]) -> None:
        self._asking = False
        self._watch.asked(bool(logged_in & initiators), self._tools.loop.now())
        self._tools.loop.call_later(ASK_S, self._changed)

    def _failed(self, error: BaseException) -> None:
        self._asking = False
        log.warning("volume %s: %s", self._uid, error)
        self._tools.loop.call_later(ASK_S, self._changed)
