"""Fetching extents: few ranged GETs for many extents, none of them fetched twice at the same time.

Extents that were written together lie together in a pack, so one GET brings many. What has come is
checked, decompressed and kept in a cache that all readers of a process share.
"""

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.base.limits import EXTENT_BYTES, KIB, MIB
from holdfast.snapshotter import blob
from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.cache import Cache
from holdfast.snapshotter.index import get_range
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.ring import PLAIN, Ring
from holdfast.snapshotter.shard import Entry

GET_MAX_BYTES = 16 * MIB
"""Longest ranged GET."""
GAP_MAX_BYTES = 64 * KIB
"""Bytes between two wanted extents that are fetched and thrown away rather than asking twice."""
EXTENTS_CACHE_BYTES = 128 * MIB
GETS = 8
"""Ranged GETs under way at once."""


class Fetch(NamedTuple):
    """One ranged GET of [offset, end) of a pack, and the extents that it brings."""

    pack: str
    offset: int
    end: int
    entries: tuple[Entry, ...]


def plan_fetches(entries: Iterable[Entry]) -> list[Fetch]:
    """The GETs that bring `entries`: neighbours in one pack share one, up to GET_MAX_BYTES."""
    fetches: list[Fetch] = []
    for entry in sorted(set(entries), key=lambda one: (one.pack.name, one.offset)):
        end = entry.offset + entry.stored_bytes
        last = fetches[-1] if fetches else None
        if (
            last
            and last.pack == entry.pack.name
            and entry.offset - last.end <= GAP_MAX_BYTES
            and end - last.offset <= GET_MAX_BYTES
        ):
            fetches[-1] = last._replace(end=max(end, last.end), entries=(*last.entries, entry))
        else:
            fetches.append(Fetch(entry.pack.name, entry.offset, end, (entry,)))
    return fetches


class Fetcher:
    """Plain extents by their entries; for many threads. `close` ends its own."""

    def __init__(self, store: ObjectStore, cache_bytes: int = EXTENTS_CACHE_BYTES, gets: int = GETS) -> None:
        self._store = store
        self._cache: Cache[Entry, bytes] = Cache(cache_bytes)
        self._lock = threading.Lock()
        self._coming: dict[Entry, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(gets, thread_name_prefix="fetch")

    def start(self, entries: Iterable[Entry], keys: Ring = PLAIN) -> dict[Entry, "Future[bytes]"]:
        """The extents at `entries`, each as a future: there already, on its way, or asked for now.

        A future raises DataLoss with the object's name, or Unavailable.

        Args:
            keys: of the snapshot that `entries` are of.
        """
        answers: dict[Entry, Future[bytes]] = {}
        absent: list[Entry] = []
        with self._lock:
            for entry in entries:
                plain = self._cache.peek(entry)
                if plain is not None:
                    answers[entry] = _done(plain)
                elif entry in self._coming:
                    answers[entry] = self._coming[entry]
                else:
                    answers[entry] = self._coming[entry] = Future()
                    absent.append(entry)
        for fetch in plan_fetches(absent):
            self._pool.submit(self._run, fetch, keys)
        return answers

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for future in self._coming.values():
                future.cancel()

    def _run(self, fetch: Fetch, keys: Ring, last_try: bool = False) -> None:
        try:
            data = memoryview(get_range(self._store, fetch.pack, fetch.offset, fetch.end - fetch.offset))
        except DataLoss as error:
            if len(fetch.entries) == 1:
                self._end(fetch.entries[0], error)
            else:  # The pack is cut: perhaps only the last of them is lost.
                self._one_by_one(fetch.entries, keys, last_try)
            return
        except Exception as error:
            for entry in fetch.entries:
                self._end(entry, error)
            return
        damaged = []
        for entry in fetch.entries:
            at = entry.offset - fetch.offset
            plain = _decoded(entry, data[at : at + entry.stored_bytes], keys)
            if isinstance(plain, DataLoss) and not last_try:
                damaged.append(entry)  # It may have been the transfer: look again, once.
            else:
                self._end(entry, plain)
        self._one_by_one(damaged, keys, last_try=True)

    def _one_by_one(self, entries: Iterable[Entry], keys: Ring, last_try: bool) -> None:
        for entry in entries:
            self._run(plan_fetches([entry])[0], keys, last_try)

    def _end(self, entry: Entry, outcome: bytes | Exception) -> None:
        with self._lock:
            future = self._coming.pop(entry)
            if isinstance(outcome, bytes):
                self._cache.put(entry, outcome, EXTENT_BYTES)
        if isinstance(outcome, bytes):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _decoded(entry: Entry, stored: memoryview, keys: Ring) -> bytes | Exception:
    name = entry.pack.name
    try:
        return blob.decode(Blob(stored, entry.coding, entry.digest), name, entry.offset, keys.of(name))
    except HoldfastError as error:
        return error


def _done(plain: bytes) -> "Future[bytes]":
    future: Future[bytes] = Future()
    future.set_result(plain)
    return future
