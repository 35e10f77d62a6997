"""Figures on a machine that others use too: several interleaved rounds, medians with spread, steal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

STEAL_MAX = 0.05
"""A round of which the hypervisor took more than this is measured again."""
TRIES = 5
_Result = TypeVar("_Result")
_STEAL_COLUMN = 7


@dataclass(frozen=True)
class _Clock:
    steal: int
    total: int


def _clock() -> _Clock:
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return _Clock(fields[_STEAL_COLUMN], sum(fields))


class Steal:
    """What the hypervisor took while something was measured."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.repeated = 0

    def quiet(self, measure: Callable[[], _Result]) -> _Result:
        """`measure()`, again if it was disturbed too much."""
        for attempt in range(TRIES):
            before = _clock()
            result = measure()
            after = _clock()
            share = (after.steal - before.steal) / max(1, after.total - before.total)
            if share <= STEAL_MAX or attempt == TRIES - 1:
                break
            self.repeated += 1
        self.worst = max(self.worst, share)
        return result

    def __str__(self) -> str:
        return f"steal at most {self.worst:.1%} in a measurement; {self.repeated} measured again"


def figure(values: Sequence[float], digits: int = 0) -> str:
    """Median (lowest–highest)."""
    if not values:
        return "–"
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
