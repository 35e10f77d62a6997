"""Carries one volume's reports to etcd: each once while it holds, one batch at a time, in the loop's pool.

Changes of membership go ahead of these, in threads of their own (changes.py).
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError, NotFound, StaleEpoch
from holdfast.target.reports import Health, Report, SyncProgress, VerifyProgress
from holdfast.target.tools import Tools

log = logging.getLogger(__name__)

PROGRESS_S = 5.0
"""Progress is told at most so often."""
_NEWEST = (Health, SyncProgress, VerifyProgress)
"""Kinds of which only the newest counts: an older one may have to be told again."""


class Reporter:
    """Loop thread only. `changed` is called when a batch has been told.

    What could not be told is tried again when `report` is called with it again.
    """

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._told: set[Report] = set()
        self._told_s: dict[type[Report], float] = {}
        self._sending = False

    def forget(self) -> None:
        """The assignment has changed: what was told may have to be told again."""
        self._told.clear()

    def report(self, reports: tuple[Report, ...]) -> None:
        if self._sending:
            return
        due = [one for one in reports if one not in self._told and not self._too_soon(one)]
        self._told = {one for one in self._told if one in reports or isinstance(one, _NEWEST)}
        if not due:
            return
        now_s = self._tools.loop.now()
        for one in due:
            self._told_s[type(one)] = now_s
            if isinstance(one, _NEWEST):
                self._told = {old for old in self._told if type(old) is not type(one)}
        self._sending = True
        self._tools.loop.in_pool(partial(self._send, due), self._sent, self._not_sent)

    def _too_soon(self, report: Report) -> bool:
        """It differs in its progress only from what was told a moment ago."""
        last = next((one for one in self._told if type(one) is type(report)), None)
        return (
            last is not None
            and is_progress(last, report)
            and self._tools.loop.now() - self._told_s.get(type(report), 0.0) < PROGRESS_S
        )

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


def is_progress(old: Report, new: Report) -> bool:
    """Whether `new` only says how much further something has come: such a change may wait a while. Pure."""
    if isinstance(old, Health) and isinstance(new, Health):
        same = (old.epoch, old.state, old.reason) == (new.epoch, new.state, new.reason)
        left = bool(old.hydrate_remaining_bytes) == bool(new.hydrate_remaining_bytes)
        return same and left and old.reason != ""
    if isinstance(old, SyncProgress) and isinstance(new, SyncProgress):
        return old.epoch == new.epoch and bool(old.total_bytes) == bool(new.total_bytes)
    if isinstance(old, VerifyProgress) and isinstance(new, VerifyProgress):
        return (old.request, old.state) == (new.request, new.state)
    return False
