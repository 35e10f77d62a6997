"""What a case came to, and the table of it."""

from dataclasses import dataclass, field

_COLUMNS = ("case", "I/O errors", "wrong bytes", "pause ms", "limit ms", "resynced KiB", "took s", "result")
_WIDTHS = (36, 10, 11, 8, 8, 12, 6, 6)


@dataclass
class Outcome:
    """None: not measured in this case."""

    name: str
    pause_limit_ms: int | None = None
    io_errors: int = 0
    wrong_bytes: int = 0
    pause_ms: int | None = None
    resynced_bytes: int | None = None
    took_s: float = 0.0
    troubles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what else was measured

    def judge(self) -> None:
        """Turn what was measured into troubles, once all is measured."""
        if self.io_errors:
            self.troubles.insert(0, f"{self.io_errors} I/O errors")
        if self.wrong_bytes:
            self.troubles.insert(0, f"{self.wrong_bytes} wrong bytes")
        limit_ms = self.pause_limit_ms
        if limit_ms is not None and self.pause_ms is not None and self.pause_ms > limit_ms:
            self.troubles.append(f"I/O paused for {self.pause_ms} ms, {self.pause_limit_ms} at most")

    @property
    def passed(self) -> bool:
        return not self.troubles

    def row(self) -> str:
        resynced = None if self.resynced_bytes is None else self.resynced_bytes // 1024
        numbers = (self.io_errors, self.wrong_bytes, self.pause_ms, self.pause_limit_ms, resynced)
        cells = [self.name, *("-" if n is None else str(n) for n in numbers), f"{self.took_s:.0f}"]
        row = _line([*cells, "PASS" if self.passed else "FAIL"])
        return "\n".join([row, *(f"    {line}" for line in (*self.troubles, *self.notes))])


def header() -> str:
    return _line(_COLUMNS)


def _line(cells: "tuple[str, ...] | list[str]") -> str:
    first, *others = (
        cell.ljust(width) if at == 0 else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return "  ".join([first, *others])
