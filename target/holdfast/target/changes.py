"""Sends a volume's changes of membership: one at a time, at once, in threads that nothing else waits for.

An I/O may be waiting for each. A change is sent as long as `membership.decide` gives it; what is out of date
is refused by the transaction and asked for no more, because the assignment says another epoch by then.
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError, NotFound, StaleEpoch, Unavailable
from holdfast.base.loop import Timer
from holdfast.target.reports import Change, CrashMove, PathMove
from holdfast.target.tools import Tools

log = logging.getLogger(__name__)

RETRY_S = 0.25
"""After etcd did not answer, or refused for now: e.g. a lease that is about to expire."""
REFUSED_MOVE_S = 10.0
ECHO_S = 2.0
"""A change that was made is asked for again after this, if the assignment still does not say so."""


class ChangeSender:
    """Loop thread only. `changed` is called when something may have to be sent (again)."""

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._sending = False
        self._last: Change | None = None
        self._not_before_s = 0.0
        self._timer: Timer | None = None
        self.etcd_away = False
        """The last attempt found no etcd."""
        self.made: Change | None = None
        """The last change that was surely made, since `forget_made`."""
        self._counts = False

    def forget(self) -> None:
        """The assignment has changed."""
        self._last = None
        self.etcd_away = False

    def forget_made(self) -> None:
        """What it was made for is over: nor does one that is under way count."""
        self.made, self._counts = None, False

    def send(self, change: Change | None) -> None:
        """Make `change`, unless that is under way, or was tried a moment ago."""
        if change is None:
            self.etcd_away = False
        if change is None or self._sending:
            return
        wait_s = self._not_before_s - self._tools.loop.now()
        if change == self._last and wait_s > 0:
            self._look_again(wait_s)
            return
        self._sending, self._last, self._counts = True, change, True
        log.info("volume %s: %s", self._uid, change)
        self._tools.loop.in_pool(
            partial(change.send, self._tools.actions, self._uid),
            partial(self._sent, change),
            partial(self._failed, change),
            self._tools.urgent,
        )

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _sent(self, change: Change, _nothing: None) -> None:
        if self._counts:
            self.made = change
        self._again_in(ECHO_S)
        self.etcd_away = False

    def _failed(self, change: Change, error: BaseException) -> None:
        self.etcd_away = isinstance(error, Unavailable)
        if isinstance(error, StaleEpoch | NotFound):
            log.info("volume %s: %s came too late: %s", self._uid, change, error)
            self._again_in(ECHO_S)
        elif isinstance(error, HoldfastError):
            log.warning("volume %s: %s is not done: %s", self._uid, change, error)
            refused = isinstance(change, PathMove | CrashMove) and not self.etcd_away
            self._again_in(REFUSED_MOVE_S if refused else RETRY_S)
        else:
            log.error("volume %s: %s failed: %r", self._uid, change, error)
            self._again_in(ECHO_S)

    def _again_in(self, delay_s: float) -> None:
        self._sending = False
        self._not_before_s = self._tools.loop.now() + delay_s
        self._changed()

    def _look_again(self, delay_s: float) -> None:
        if self._timer is None:

            def look() -> None:
                self._timer = None
                self._changed()

            self._timer = self._tools.loop.call_later(delay_s, look)
