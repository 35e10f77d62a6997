"""What each link of the switch does to a frame: carry it, lose it, or hold it back.

A link is an ordered pair of port names; both directions of a wire are two links. Pure bookkeeping.
"""

from dataclasses import dataclass

_MAX_DELAY_S = 60.0


@dataclass(frozen=True)
class Fault:
    """What is wrong with one direction of a wire."""

    cut: bool = False
    delay_s: float = 0.0


class Links:
    """The faults in force; `faults` has no entry for a sound link, so that it is mostly empty."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], Fault] = {}

    def cut(self, source: str, target: str, one_way: bool) -> None:
        """Lose every frame from source to target, and back unless `one_way`."""
        for pair in _directions(source, target, one_way):
            delay_s = self.faults.get(pair, Fault()).delay_s
            self.faults[pair] = Fault(cut=True, delay_s=delay_s)

    def delay(self, source: str, target: str, delay_s: float, one_way: bool) -> None:
        """Hold every frame back; 0 takes the delay away. Order is kept."""
        if not 0 <= delay_s <= _MAX_DELAY_S:
            raise ValueError(f"a delay of {delay_s} s is not between 0 and {_MAX_DELAY_S} s")
        for pair in _directions(source, target, one_way):
            cut = self.faults.get(pair, Fault()).cut
            self.faults[pair] = Fault(cut=cut, delay_s=delay_s)
            if not cut and not delay_s:
                del self.faults[pair]

    def mend(self, source: str, target: str) -> None:
        """Take every fault of both directions away."""
        for pair in _directions(source, target, False):
            self.faults.pop(pair, None)

    def mend_all(self) -> None:
        self.faults.clear()


def _directions(source: str, target: str, one_way: bool) -> list[tuple[str, str]]:
    return [(source, target)] if one_way else [(source, target), (target, source)]
