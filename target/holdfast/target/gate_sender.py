"""Sends what a volume's gates say to etcd: one at a time, at once, in threads that nothing else waits for.

Writes wait while a gate is closed. What is out of date is refused by the transaction, and asked for no more,
because the assignment says another step or attempt by then.
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError, NotFound, StaleEpoch
from holdfast.target.reports import GateReport
from holdfast.target.tools import Tools

log = logging.getLogger(__name__)

RETRY_S = 0.1
ECHO_S = 2.0
"""What was said is said again after this, if it is still so: whoever was to go on may be gone."""


class GateSender:
    """Loop thread only. `changed` is called when something may have to be sent."""

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._sending = False
        self._not_before_s: dict[GateReport, float] = {}

    def send(self, reports: tuple[GateReport, ...]) -> None:
        """Tell these, each that was not told a moment ago."""
        now_s = self._tools.loop.now()
        self._not_before_s = {one: at for one, at in self._not_before_s.items() if one in reports}
        due = [one for one in reports if self._not_before_s.get(one, 0.0) <= now_s]
        if self._sending or not due:
            return
        self._sending = True
        self._tools.loop.in_pool(
            partial(due[0].send, self._tools.actions, self._uid),
            lambda _nothing: self._ended(due[0], ECHO_S),
            partial(self._failed, due[0]),
            self._tools.urgent,
        )

    def _failed(self, report: GateReport, error: BaseException) -> None:
        late = isinstance(error, StaleEpoch | NotFound)
        if late:
            log.info("volume %s: %s came too late: %s", self._uid, report, error)
        elif isinstance(error, HoldfastError):
            log.warning("volume %s: %s could not be told: %s", self._uid, report, error)
        else:
            log.error("volume %s: %s failed: %r", self._uid, report, error)
        self._ended(report, ECHO_S if late else RETRY_S)

    def _ended(self, report: GateReport, again_s: float) -> None:
        self._sending = False
        self._not_before_s[report] = self._tools.loop.now() + again_s
        self._tools.loop.call_later(again_s, self._changed)
        self._changed()
