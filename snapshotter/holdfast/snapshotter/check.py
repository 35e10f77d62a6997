"""Whether stored extents are there and are what they must be, read as a reader reads them.

What fails is read once more, alone: it may have been the transfer.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.snapshotter import blob
from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.fetch import Fetch, plan_fetches
from holdfast.snapshotter.index import get_range
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.ring import Ring
from holdfast.snapshotter.shard import Entry

_WORDS = {"OBJECT_MISSING": "missing", "OBJECT_TRUNCATED": "short"}


class Bad(NamedTuple):
    """An extent that cannot be read; `why` in one word."""

    extent: int
    entry: Entry
    why: str


def word_for(error: HoldfastError) -> str:
    return _WORDS.get(error.reason, "damaged")


class Checker:
    """Of one snapshot.

    Args:
        keys: of the snapshot.
        before: called with a number of bytes before so many are read; may wait, or raise.
    """

    def __init__(self, store: ObjectStore, keys: Ring, before: Callable[[int], None]) -> None:
        self._store = store
        self._keys = keys
        self._before = before
        self.read_bytes = 0

    def bad_of(self, entries: Mapping[int, Entry]) -> list[Bad]:
        """Those of `entries` (by extent) that cannot be read. Raises Unavailable, KeyUnavailable."""
        # Several extents may be at one place, where an extent was moved by those who made the packs.
        extents: dict[Entry, list[int]] = {}
        for extent, entry in entries.items():
            extents.setdefault(entry, []).append(extent)
        missing: set[str] = set()
        found = []
        for fetch in plan_fetches(extents):
            for entry, why in self._bad_of_fetch(fetch, missing):
                found += [Bad(extent, entry, why) for extent in extents[entry]]
        return sorted(found)

    def _bad_of_fetch(self, fetch: Fetch, missing: set[str]) -> Iterable[tuple[Entry, str]]:
        if fetch.pack in missing:
            return [(entry, "missing") for entry in fetch.entries]
        doubtful = self._look(fetch)
        bad = []
        for entry in doubtful:
            error = self._read(entry) if fetch.pack not in missing else doubtful[entry]
            if error is not None:
                bad.append((entry, word_for(error)))
                if error.reason == "OBJECT_MISSING":
                    missing.add(fetch.pack)
        return bad

    def _look(self, fetch: Fetch) -> dict[Entry, DataLoss]:
        """What cannot be read of a fetch, at the first look."""
        length = fetch.end - fetch.offset
        self._before(length)
        try:
            data = memoryview(get_range(self._store, fetch.pack, fetch.offset, length))
        except DataLoss as error:
            return dict.fromkeys(fetch.entries, error)
        self.read_bytes += length
        doubtful = {}
        for entry in fetch.entries:
            at = entry.offset - fetch.offset
            try:
                self._decode(entry, data[at : at + entry.stored_bytes])
            except DataLoss as error:
                doubtful[entry] = error
        return doubtful

    def _read(self, entry: Entry) -> DataLoss | None:
        """What is wrong with one extent, looked at alone."""
        self._before(entry.stored_bytes)
        try:
            self.plain(entry)
        except DataLoss as error:
            return error
        return None

    def plain(self, entry: Entry) -> bytes:
        """The extent's bytes. Raises DataLoss, Unavailable, KeyUnavailable."""
        data = get_range(self._store, entry.pack.name, entry.offset, entry.stored_bytes)
        return self._decode(entry, memoryview(data))

    def _decode(self, entry: Entry, stored: memoryview) -> bytes:
        name = entry.pack.name
        return blob.decode(Blob(stored, entry.coding, entry.digest), name, entry.offset, self._keys.of(name))
