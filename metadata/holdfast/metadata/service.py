"""What all servicers are given, and how they read: records by the page, and watches of one resource."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Exhausted, Unavailable
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.encryption_decisions import Rewrapped, Wanted
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.feed import Feed
from holdfast.metadata.pages import fill
from holdfast.metadata.records import M, decode
from holdfast.metadata.rewrapping import Rewrapper

T = TypeVar("T")
WATCHES_MAX = 256
"""Clients that watch at a time: each takes a thread of the server."""
PLACING_WAIT_S = 1.0
AtEnd = Callable[[Callable[[], None]], bool]


@dataclass
class Service:
    """Everything that the servicers share.

    `seal_key`: the X25519 private key that CHAP secrets for the service are sealed to; every copy of the
    service has the same. `overcommit`: how many times a host's capacity may be promised. `rewrapper`: asks
    snapshotters, which have the keys of encrypted snapshots.
    """

    etcd: Etcd
    feed: Feed
    seal_key: bytes
    overcommit: float = 1.0
    clock: Callable[[], float] = time.time
    rewrapper: Rewrapper | None = None
    _placement: threading.Lock = field(default_factory=threading.Lock)
    watches: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(WATCHES_MAX))

    def run(self, decide: Callable[[Draft], T]) -> T:
        return run(self.etcd, decide)

    @contextmanager
    def placing(self) -> Iterator[None]:
        """One creation at a time: in one process they would only race for the same hosts' records.

        It is for speed alone; when it takes long (etcd is slow or gone) they go on side by side.
        """
        held = self._placement.acquire(timeout=PLACING_WAIT_S)
        try:
            yield
        finally:
            if held:
                self._placement.release()

    def rewrapped(self, look: Callable[[Draft], Wanted | None]) -> Rewrapped | None:
        """The data key that `look` finds is to be wrapped anew, if it finds one. See `Rewrapper`."""
        wanted = self.look(look)
        if wanted is None:
            return None
        assert self.rewrapper is not None, "a server without snapshotters"
        return self.rewrapper.rewrap(wanted)

    def look(self, look: Callable[[Draft], T]) -> T:
        """Read without changing anything."""
        return look(Draft(self.etcd))

    def records(self, keys: Sequence[str], message_type: type[M]) -> list[M | None]:
        return [decode(message_type, entry.value) if entry else None for entry in self.etcd.get_many(keys)]

    def page(
        self,
        prefix: str,
        size: int,
        after: str,
        resolve: Callable[[list[tuple[str, r.NameRecord]]], list[T | None]],
    ) -> tuple[list[T], str]:
        """A page of what an owner's names below `prefix` lead to; `resolve` may pass some over (None)."""

        def fetch(after: str, limit: int) -> list[tuple[str, T | None]]:
            entries, _ = self.etcd.range(prefix, limit, prefix + after if after else "")
            named = [(one.key.removeprefix(prefix), decode(r.NameRecord, one.value)) for one in entries]
            return list(zip((name for name, _ in named), resolve(named), strict=True))

        return fill(size, after, fetch)

    def changes(self, keys: Sequence[str], look: Callable[[], T | None], at_end: AtEnd) -> Iterator[T | None]:
        """`look()` now, and whenever a change of `keys` makes it differ; None when it is gone, as the last.

        Once something was shown, it waits out an etcd that is away. Raises what `look` raises, Exhausted
        TOO_MANY, and Unavailable when the server stops.
        """
        if not self.watches.acquire(blocking=False):
            raise Exhausted("TOO_MANY", f"{WATCHES_MAX} clients watch this server, the most: try another.")
        subscription = self.feed.subscribe(keys)
        try:
            if not at_end(subscription.close):
                return
            shown: T | None = None
            while subscription.wait():
                try:
                    now = look()
                except Unavailable:
                    if shown is None:
                        raise
                    subscription.wake_later()
                    continue
                if now is None or now != shown:
                    yield now
                if now is None:
                    return
                shown = now
        finally:
            subscription.close()
            self.watches.release()
