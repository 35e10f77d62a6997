"""A frozen view: the volume as it was at a freeze, kept by copying before the first overwrite.

    frozen/<snapshot>.data      old content of overwritten extents, at their own offsets
    frozen/<snapshot>.copied    bit: the old content is in .data
    frozen/<snapshot>.missing   bit: the extent had not been hydrated at the freeze: the origin has it

Order of writes: old content, then its `copied` bit (in the mapped file, so it survives this process),
then the overwrite. None of the three is synced: a host that loses its memory drops its views.

A view without all of its files is no view: that is how one is lost or dropped even on a full disk.
"""

from collections.abc import Iterable

from holdfast.base.limits import EXTENT_BYTES
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import DataFile, Files

FOLDER = "frozen"
_SUFFIXES = ("copied", "missing", "data")


class FrozenView:
    """Raises OSError if its files cannot be opened or, with `make`, made."""

    def __init__(self, files: Files, uid: str, size_bytes: int, extents: int, make: bool = False) -> None:
        length = Bitmap.bytes_for(extents)
        self.uid = uid
        self.data: DataFile = files.data(f"{FOLDER}/{uid}.data", size_bytes, make)
        self.copied = Bitmap(files.bits(f"{FOLDER}/{uid}.copied", length, make), extents)
        self.missing = Bitmap(files.bits(f"{FOLDER}/{uid}.missing", length, make), extents)

    def needs_copy(self, extents: Iterable[int]) -> list[int]:
        """Those of `extents` whose content would be lost to this view by an overwrite."""
        return [index for index in extents if not self.copied.get(index) and not self.missing.get(index)]

    def keep(self, extent: int, content: bytearray) -> None:
        """Write one extent's old content; `copied.set` comes next. Blocks. Raises OSError (no room)."""
        if content.count(0) != len(content):
            self.data.write([memoryview(content)], extent * EXTENT_BYTES, len(content))

    def close(self) -> None:
        self.data.close()
        self.copied.close()
        self.missing.close()


def names(files: Files) -> set[str]:
    """Uids of the views that have files, whole or in part."""
    return {name.split(".")[0] for name in files.names(FOLDER)}


def whole(files: Files, uid: str) -> bool:
    """All of its files are there."""
    return {f"{uid}.{suffix}" for suffix in _SUFFIXES} <= set(files.names(FOLDER))


def spoil(files: Files, uid: str) -> None:
    """One small file away, quickly: the view is not whole any more. `remove` takes the rest."""
    files.remove(f"{FOLDER}/{uid}.copied")


def remove(files: Files, uid: str) -> None:
    """Needs no room on the disk."""
    for suffix in _SUFFIXES:
        files.remove(f"{FOLDER}/{uid}.{suffix}")
