"""More rows than fit in memory, sorted: in files of a temporary folder, merged when they are read.

A row is bytes without a line's end; equal rows are kept once where they meet. Memory: `memory_bytes` of
rows, and one buffer for each of at most FILES_MAX files.
"""

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast.base.limits import MIB

MEMORY_BYTES = 16 * MIB
FILES_MAX = 64
_ROW_COST_BYTES = 64
"""What a row costs in memory beside its bytes."""


class SortedRows:
    """Rows go in with `add`, and come out of `sorted`, which may be called more than once."""

    def __init__(self, folder: Path, name: str, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._name = name
        self._memory_bytes = memory_bytes
        self._rows: list[bytes] = []
        self._rows_bytes = 0
        self._files: list[Path] = []
        self._made = 0

    def add(self, row: bytes) -> None:
        self._rows.append(row)
        self._rows_bytes += len(row) + _ROW_COST_BYTES
        if self._rows_bytes >= self._memory_bytes:
            self._spill()

    def sorted(self) -> Iterator[bytes]:
        """Every row, ascending, each once."""
        sources: list[Iterable[bytes]] = [_read(path) for path in self._files]
        return _distinct(heapq.merge(*sources, sorted(self._rows)))

    def _spill(self) -> None:
        self._write(sorted(self._rows))
        self._rows, self._rows_bytes = [], 0
        if len(self._files) >= FILES_MAX:
            merged, self._files = self._files, []
            self._write(heapq.merge(*(_read(path) for path in merged)))
            for path in merged:
                path.unlink()

    def _write(self, rows: Iterable[bytes]) -> None:
        path = self._folder / f"{self._name}-{self._made}"
        self._made += 1
        with path.open("wb", MIB) as file:
            for row in _distinct(rows):
                file.write(row + b"\n")
        self._files.append(path)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb", MIB // 4) as file:
        for line in file:
            yield line[:-1]


def _distinct(rows: Iterable[bytes]) -> Iterator[bytes]:
    last = None
    for row in rows:
        if row != last:
            yield row
        last = row
