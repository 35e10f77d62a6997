"""Fetching extents: few ranged GETs for many extents, none of them fetched twice at the same time.

Extents that were written together lie together in a pack, so one GET brings many. Each is checked and
decompressed as it comes: of a GET of 32 MiB, one extent is held at a time.

What is held, by all readers that share a fetcher:

    fetched ahead and not used yet   `ahead_bytes` at most: what there is no room for is not fetched ahead
    used                             `cache_bytes` at most, those used last
    asked for by whoever waits       as much as those who wait ask for at a time

What was fetched ahead is apart from what was used, so that neither pushes the other out. Of a sequence
that was given up it goes when it has lain for ABANDONED_S and others need the room.

Whoever asks is told once, when the last of what they asked for has ended, and not for each extent: with a
future for each, and a thread that waited for it, threads changed places more than twice as often.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from holdfast.base.errors import DataLoss, HoldfastError, Unavailable
from holdfast.base.limits import EXTENT_BYTES, KIB, MIB
from holdfast.snapshotter import blob
from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.cache import Cache
from holdfast.snapshotter.index import get_pieces
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.ring import PLAIN, Ring
from holdfast.snapshotter.shard import Entry

GET_MAX_BYTES = 16 * MIB
"""Longest ranged GET of which all is held at once."""
PIECES_MAX_BYTES = 48 * MIB
"""Longest that comes in pieces: a whole pack, which may be longer than its set size."""
GAP_MAX_BYTES = 64 * KIB
"""Bytes between two wanted extents that are fetched and thrown away rather than asking twice."""
EXTENTS_CACHE_BYTES = 32 * MIB
AHEAD_BYTES = 96 * MIB
"""Of two sequences the longest, and half as much that is not used yet when that is asked for."""
GETS = 8
"""Ranged GETs under way at once."""
ABANDONED_S = 5.0


class Fetch(NamedTuple):
    """One ranged GET of [offset, end) of a pack, and the extents that it brings."""

    pack: str
    offset: int
    end: int
    entries: tuple[Entry, ...]

    def pieces(self) -> list[tuple[Entry | None, int]]:
        """What comes, in order: extents and what lies between them, with lengths. Entries overlap never."""
        found: list[tuple[Entry | None, int]] = []
        at = self.offset
        for entry in self.entries:
            if entry.offset > at:
                found.append((None, entry.offset - at))
            found.append((entry, entry.stored_bytes))
            at = entry.offset + entry.stored_bytes
        return found


def plan_fetches(entries: Iterable[Entry], most_bytes: int = GET_MAX_BYTES) -> list[Fetch]:
    """The GETs that bring `entries`: neighbours in one pack share one, up to `most_bytes`."""
    wanted = sorted(set(entries), key=lambda one: (one.pack.name, one.offset))
    fetches: list[Fetch] = []
    first = 0
    for at, entry in enumerate(wanted):
        start, last = wanted[first], wanted[at - 1]
        if at > first and not (
            last.pack == entry.pack
            and 0 <= entry.offset - (last.offset + last.stored_bytes) <= GAP_MAX_BYTES
            and entry.offset + entry.stored_bytes - start.offset <= most_bytes
        ):
            fetches.append(_fetch(wanted[first:at]))
            first = at
    if wanted:
        fetches.append(_fetch(wanted[first:]))
    return fetches


def _fetch(entries: Sequence[Entry]) -> Fetch:
    first, last = entries[0], entries[-1]
    return Fetch(first.pack.name, first.offset, last.offset + last.stored_bytes, tuple(entries))


class Asked:
    """What somebody asked for at a time, and waits for as a whole. Filled by the fetcher, under its lock.

    Args:
        whole: called when the last of it has ended, by the thread that fetched it, unless `at_once`.
    """

    __slots__ = ("_missing", "_outcomes", "_waits", "_whole", "at_once")

    def __init__(self, whole: Callable[[], None] | None = None) -> None:
        self._outcomes: dict[Entry, bytes | Exception | None] = {}
        """In the order asked for; None: on its way."""
        self._missing = 0
        self._waits = threading.Lock()
        self._whole = whole or self._waits.release
        self.at_once = False
        """All was here already."""

    def wait(self) -> dict[Entry, bytes]:
        """As `result`, when all have ended. Once, and only where nobody else is told."""
        if not self.at_once:
            self._waits.acquire()
        return self.result()

    def result(self) -> dict[Entry, bytes]:
        """The extents, of which none is on its way any more. Raises DataLoss with the object's name, or
        Unavailable: of several errors that of the first extent."""
        found: dict[Entry, bytes] = {}
        for entry, outcome in self._outcomes.items():
            if not isinstance(outcome, bytes):
                assert outcome is not None, "it was looked at before all was here"
                raise outcome
            found[entry] = outcome
        return found

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._outcomes

    def has(self, entry: Entry, plain: bytes) -> None:
        self._outcomes[entry] = plain

    def awaits(self, entry: Entry) -> None:
        self._outcomes[entry] = None
        self._missing += 1

    def began(self) -> None:
        """Nothing else is asked for."""
        self.at_once = not self._missing
        if not self.at_once:
            self._waits.acquire()

    def ended(self, entry: Entry, outcome: bytes | Exception) -> bool:
        """Whether it was the last one: `tell`, without the lock."""
        self._outcomes[entry] = outcome
        self._missing -= 1
        return not self._missing

    def tell(self) -> None:
        self._whole()


class Fetcher:
    """Plain extents by their entries; for many threads. `close` ends its own."""

    def __init__(
        self,
        store: ObjectStore,
        cache_bytes: int = EXTENTS_CACHE_BYTES,
        gets: int = GETS,
        ahead_bytes: int = AHEAD_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache: Cache[Entry, bytes] = Cache(cache_bytes)
        self._ahead_extents = ahead_bytes // EXTENT_BYTES
        self._clock = clock
        self._lock = threading.Lock()
        self._coming: dict[Entry, list[Asked]] = {}
        """On their way, and who waits for each."""
        self._ahead: OrderedDict[Entry, float] = OrderedDict()
        """Asked for ahead and not used yet, since when; the oldest first."""
        self._ready: dict[Entry, bytes] = {}
        """Those of them that have come."""
        self._pool = ThreadPoolExecutor(gets, thread_name_prefix="fetch")

    @property
    def held_bytes(self) -> int:
        """Of plain extents that are here or on their way."""
        with self._lock:
            extents = len(self._ready) + len(self._coming)
            return extents * EXTENT_BYTES + self._cache.kept_bytes

    def start(
        self, entries: Iterable[Entry], keys: Ring = PLAIN, whole: Callable[[], None] | None = None
    ) -> Asked:
        """Ask for the extents at `entries`: they are here, on their way, or fetched from now on.

        Args:
            keys: of the snapshot that `entries` are of.
            whole: see Asked; instead of `Asked.wait`.
        """
        asked = Asked(whole)
        absent: list[Entry] = []
        with self._lock:
            for entry in entries:
                if entry in asked:
                    continue
                self._used(entry)
                plain = self._cache.peek(entry)
                if plain is not None:
                    asked.has(entry, plain)
                    continue
                asked.awaits(entry)
                if entry in self._coming:
                    self._coming[entry].append(asked)
                else:
                    self._coming[entry] = [asked]
                    absent.append(entry)
            asked.began()
        self._submit(absent, keys)
        return asked

    def ahead(self, entries: Sequence[Entry], keys: Ring = PLAIN) -> int:
        """Ask for `entries`, which nobody waits for yet, as far as there is room: so many of them, from the
        first on, are here or on their way.
        """
        absent: list[Entry] = []
        asked = 0
        with self._lock:
            self._forget_abandoned(len(self._ahead) + len(entries) - self._ahead_extents)
            for entry in entries:
                if not (entry in self._coming or entry in self._ready or self._cache.peek(entry) is not None):
                    if len(self._ahead) >= self._ahead_extents:
                        break
                    self._ahead[entry] = self._clock()
                    self._coming[entry] = []
                    absent.append(entry)
                asked += 1
        self._submit(absent, keys)
        return asked

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        error = Unavailable("FETCHER_CLOSED", "The snapshotter is ending.")
        for entry in list(self._coming):
            self._end(entry, error)

    def _used(self, entry: Entry) -> None:
        """With the lock: somebody waits for it, so it is no longer ahead."""
        self._ahead.pop(entry, None)
        plain = self._ready.pop(entry, None)
        if plain is not None:
            self._cache.put(entry, plain, EXTENT_BYTES)

    def _forget_abandoned(self, count: int) -> None:
        """With the lock: up to `count` of those that nobody came for."""
        before_s = self._clock() - ABANDONED_S
        while count > 0 and self._ahead and next(iter(self._ahead.values())) < before_s:
            entry, _ = self._ahead.popitem(last=False)
            self._ready.pop(entry, None)
            count -= 1

    def _submit(self, entries: Iterable[Entry], keys: Ring) -> None:
        for fetch in plan_fetches(entries, PIECES_MAX_BYTES):
            self._pool.submit(self._run, fetch, keys)

    def _run(self, fetch: Fetch, keys: Ring, last_try: bool = False) -> None:
        pieces = fetch.pieces()
        waiting = list(reversed(fetch.entries))
        doubtful: list[Entry] = []
        try:
            coming = get_pieces(self._store, fetch.pack, fetch.offset, [length for _, length in pieces])
            for (entry, _), stored in zip(pieces, coming, strict=True):
                if entry is None:
                    continue
                waiting.pop()
                plain = _decoded(entry, stored, keys)
                if isinstance(plain, DataLoss) and not last_try:
                    doubtful.append(entry)  # It may have been the transfer: look again, once.
                else:
                    self._end(entry, plain)
        except DataLoss as error:
            if len(fetch.entries) == 1:
                self._end(fetch.entries[0], error)
            else:  # The pack is cut: perhaps only the last of them is lost.
                self._one_by_one(reversed(waiting), keys, last_try)
        except Exception as error:
            for entry in waiting:
                self._end(entry, error)
        self._one_by_one(doubtful, keys, last_try=True)

    def _one_by_one(self, entries: Iterable[Entry], keys: Ring, last_try: bool) -> None:
        for entry in entries:
            self._run(plan_fetches([entry])[0], keys, last_try)

    def _end(self, entry: Entry, outcome: bytes | Exception) -> None:
        with self._lock:
            if not isinstance(outcome, bytes):
                self._ahead.pop(entry, None)
            elif entry in self._ahead:
                self._ready[entry] = outcome
            else:
                self._cache.put(entry, outcome, EXTENT_BYTES)
            whole = [asked for asked in self._coming.pop(entry) if asked.ended(entry, outcome)]
        for asked in whole:
            asked.tell()


def _decoded(entry: Entry, stored: bytes, keys: Ring) -> bytes | Exception:
    name = entry.pack.name
    try:
        return blob.decode(Blob(stored, entry.coding, entry.digest), name, entry.offset, keys.of(name))
    except HoldfastError as error:
        return error
