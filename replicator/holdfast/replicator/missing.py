"""Which extents of a volume made from a snapshot are not here yet.

Two bitmaps, because the two kinds of crash want opposite things. `missing` is the durable truth: a bit
is cleared only after the extent's data is on disk, or a power cut would leave a hole where the snapshot's
bytes should be. `filled` is true for this boot only: set in the page cache right after the data was
written there, so that a worker that is killed does not fetch old bytes over newer ones. A flush carries
`filled` over into `missing`. On another boot `filled` is forgotten.
"""

from collections.abc import Iterable, Iterator

from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import Files

NAMES = ("missing", "filled")


class Missing:
    """`extents` bits. Everything but `settle` and `sync` is quick and runs on the loop's thread."""

    def __init__(self, files: Files, extents: int, same_boot: bool) -> None:
        length = Bitmap.bytes_for(extents)
        self._durable = Bitmap(files.bits("missing", length), extents)
        self._filled = Bitmap(files.bits("filled", length), extents)
        if not same_boot:
            self._filled.clear_all()
            self._filled.sync()
        self._unsettled = [i for i in self._filled.set_bits() if self._durable.get(i)]
        self.left = self._durable.count() - len(self._unsettled)

    @staticmethod
    def create(files: Files, extents: int, everything: bool) -> None:
        """Make the files; with `everything`, all is still at the origin. Durable but for the names."""
        length = Bitmap.bytes_for(extents)
        Bitmap(files.bits("filled", length, make=True), extents).close()
        durable = Bitmap(files.bits("missing", length, make=True), extents)
        if everything:
            durable.set_range(0, extents)
        durable.sync()
        durable.close()

    def get(self, extent: int) -> bool:
        return self._durable.get(extent) and not self._filled.get(extent)

    def among(self, extents: Iterable[int]) -> list[int]:
        return [extent for extent in extents if self.get(extent)] if self.left else []

    def indexes(self, first: int = 0) -> Iterator[int]:
        """Missing extents from `first` on, ascending."""
        return (extent for extent in self._durable.set_bits(first) if not self._filled.get(extent))

    def fill(self, extents: Iterable[int]) -> None:
        """Their data has been written (not yet synced)."""
        for extent in extents:
            if self.get(extent):
                self._filled.set(extent)
                self._unsettled.append(extent)
                self.left -= 1

    def unfill(self, extents: Iterable[int]) -> None:
        """They are missing after all: the primary never had what was written there. No flush is under way."""
        again = [extent for extent in extents if not self.get(extent)]
        for extent in again:
            # In this order: a process that ends in between must not leave it as present.
            self._durable.set(extent)
            self._filled.clear(extent)
        self._unsettled = [extent for extent in self._unsettled if not self.get(extent)]
        self.left += len(again)

    def take_unsettled(self) -> list[int]:
        """Filled extents for `settle`, to be taken before the data sync that covers them starts."""
        taken, self._unsettled = self._unsettled, []
        return taken

    def give_back(self, extents: list[int]) -> None:
        """The data sync failed: they are as unsettled as before."""
        self._unsettled += extents

    def settle(self, extents: list[int]) -> None:
        """After the data sync: durably not missing any more. Blocks."""
        if extents:
            for extent in extents:
                self._durable.clear(extent)
            self._durable.sync()

    def sync(self) -> None:
        """What was unfilled is durably missing. Blocks."""
        self._durable.sync()

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """What is missing, as pages of a bitmap (Bitmap.pages)."""
        if self.left:
            now = Bitmap.in_memory(self._durable.bits)
            self.copy_into(now)
            yield from now.pages()

    def replace(self, pages: Iterable[tuple[int, bytes]]) -> None:
        """What is missing is this, from now on. No flush is under way. Not durable before `sync`; a process
        that ends in between leaves a copy that is not whole, and its owner knows that (State.consistent).
        """
        self._durable.clear_all()
        self._filled.clear_all()
        for at, page in pages:
            self._durable.or_page(at, page)
        self._unsettled = []
        self.left = self._durable.count()

    def copy_into(self, target: Bitmap) -> None:
        """Set in `target` what is missing now (for a frozen view)."""
        if self.left:
            target.or_with(self._durable, but_not=self._filled)

    def close(self) -> None:
        self._durable.close()
        self._filled.close()
