"""A part of a store as a store of its own: all names begin with a prefix that those who use it do not see."""

from collections.abc import Iterator, Sequence

from holdfast.snapshotter.objects import ObjectInfo, ObjectStore, check_name


class PrefixedStore:
    """An ObjectStore. The one below belongs to whoever made it.

    Args:
        prefix: ends with "/".
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        check_name(prefix.removesuffix("/"))
        self._store = store
        self._prefix = prefix

    def put(self, name: str, data: bytes | bytearray) -> None:
        self._store.put(self._prefix + name, data)

    def get(self, name: str) -> bytes:
        return self._store.get(self._prefix + name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._store.get_range(self._prefix + name, offset, length)

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        return self._store.get_pieces(self._prefix + name, offset, lengths)

    def size(self, name: str) -> int:
        return self._store.size(self._prefix + name)

    def delete(self, name: str) -> None:
        self._store.delete(self._prefix + name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for one in self._store.list(self._prefix + prefix):
            yield ObjectInfo(one.name.removeprefix(self._prefix), one.size_bytes, one.modified_s)

    def close(self) -> None:
        """Nothing is held."""
