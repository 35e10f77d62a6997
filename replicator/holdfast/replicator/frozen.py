"""A frozen view: the volume as it was at a freeze, kept by copying before the first overwrite.

    frozen/<snapshot>.data      old content of overwritten extents, at their own offsets
    frozen/<snapshot>.copied    bit: the old content is in .data
    frozen/<snapshot>.missing   bit: the extent had not been hydrated at the freeze: the origin has it

Order of writes: old content, then its `copied` bit (in the mapped file, so it survives this process),
then the overwrite. None of the three is synced one by one: a host that loses its memory drops its views.
"""

from collections.abc import Iterable

from holdfast.base.limits import EXTENT_BYTES
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import DataFile, Files

FOLDER = "frozen"
_SUFFIXES = ("data", "copied", "missing")


class FrozenView:
    def __init__(self, files: Files, uid: str, size_bytes: int, extents: int) -> None:
        length = Bitmap.bytes_for(extents)
        self.uid = uid
        self.data: DataFile = files.data(f"{FOLDER}/{uid}.data", size_bytes)
        self.copied = Bitmap(files.bits(f"{FOLDER}/{uid}.copied", length), extents)
        self.missing = Bitmap(files.bits(f"{FOLDER}/{uid}.missing", length), extents)
        self._size_bytes = size_bytes

    def needs_copy(self, extents: Iterable[int]) -> list[int]:
        """Those of `extents` whose content would be lost to this view by an overwrite."""
        return [index for index in extents if not self.copied.get(index) and not self.missing.get(index)]

    def keep(self, extent: int, content: bytearray) -> None:
        """Write one extent's old content, then its bit. Blocks. Raises OSError (no room)."""
        if content.count(0) != len(content):
            self.data.write([memoryview(content)], extent * EXTENT_BYTES, len(content))
        self.copied.set(extent)

    def sync(self) -> None:
        self.data.sync()
        self.copied.sync()
        self.missing.sync()

    def close(self) -> None:
        self.data.close()
        self.copied.close()
        self.missing.close()


def names(files: Files) -> set[str]:
    """Uids of the views that have files, whole or in part."""
    return {name.split(".")[0] for name in files.names(FOLDER)}


def remove(files: Files, uid: str) -> None:
    for suffix in _SUFFIXES:
        files.remove(f"{FOLDER}/{uid}.{suffix}")
