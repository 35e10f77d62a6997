"""Carries one volume's reports to etcd: each once while it holds, one batch at a time, in the loop's pool."""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError, NotFound, StaleEpoch
from holdfast.target.reports import Health, Report
from holdfast.target.tools import Tools

log = logging.getLogger(__name__)

PROGRESS_S = 5.0
"""Progress of hydration is told at most so often."""


class Reporter:
    """Loop thread only. `changed` is called when a batch has been told.

    What could not be told is tried again when `report` is called with it again.
    """

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._told: set[Report] = set()
        self._sending = False
        self._progress_s = 0.0

    def forget(self) -> None:
        """The assignment has changed: what was told may have to be told again."""
        self._told.clear()

    def report(self, reports: tuple[Report, ...]) -> None:
        if self._sending:
            return
        due = [one for one in reports if one not in self._told and not self._too_soon(one)]
        kept = {one for one in self._told if one in reports or isinstance(one, Health)}
        self._told = kept
        if not due:
            return
        self._sending = True
        self._tools.loop.in_pool(partial(self._send, due), self._sent, self._not_sent)

    def _too_soon(self, report: Report) -> bool:
        if not isinstance(report, Health):
            return False
        now_s = self._tools.loop.now()
        last = [one for one in self._told if isinstance(one, Health)]
        if (
            any(report.differs_in_progress_only(one) for one in last)
            and now_s - self._progress_s < PROGRESS_S
        ):
            return True
        self._progress_s = now_s
        # Only the newest health counts: an older one may have to be told again.
        self._told.difference_update(last)
        return False

    def _send(self, reports: list[Report]) -> list[Report]:
        """In the pool. A report that is out of date is as good as told: the assignment will say so."""
        told = []
        for report in reports:
            try:
                report.send(self._tools.actions, self._uid)
            except (StaleEpoch, NotFound) as error:
                log.info("volume %s: %s came too late: %s", self._uid, report, error)
            except HoldfastError as error:
                log.warning("volume %s: %s could not be told: %s", self._uid, report, error)
                continue
            told.append(report)
        return told

    def _sent(self, told: list[Report]) -> None:
        self._sending = False
        self._told.update(told)
        # At once if something is left; what could not be told waits for the next turn.
        if told:
            self._changed()

    def _not_sent(self, error: BaseException) -> None:
        self._sending = False
        log.error("volume %s: reports failed: %r", self._uid, error)
