"""A snapshot's shards, fetched when wanted, checked against the manifest, and kept for a while.

Used by readers, and by uploads for the snapshot that they are incremental from. Safe for many threads.
"""

from collections.abc import Callable, Iterator, Sequence

from holdfast.base.errors import DataLoss, NotFound
from holdfast.snapshotter import manifest as manifests
from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.blob import digest_of
from holdfast.snapshotter.cache import Cache
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.envelope import damaged
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.ring import PLAIN, Ring
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry, Shard

ShardCache = Cache[tuple[str, int], Shard]
Unlock = Callable[[Manifest], DataKey]
"""The data key of an encrypted snapshot. May raise KeyUnavailable."""


def new_shard_cache(limit_bytes: int) -> ShardCache:
    return Cache(limit_bytes)


class Index:
    """Where the extents of one snapshot are, and the keys to them if it is encrypted.

    `cache` may be shared: shards are known by their place.
    """

    def __init__(self, store: ObjectStore, manifest: Manifest, cache: ShardCache, keys: Ring = PLAIN) -> None:
        self.manifest = manifest
        self.keys = keys
        self._store = store
        self._cache = cache
        self._refs = {ref.shard: ref for ref in manifest.shards}

    def get(self, extent: int) -> Entry | None:
        """Where the extent is; None if it reads as zeros. Raises DataLoss, Unavailable."""
        shard = self.shard(extent // SHARD_EXTENTS)
        return shard.get(extent) if shard else None

    def among(self, wanted: range) -> list[Entry | None]:
        """As `get` of each; a shard is looked for once."""
        found: list[Entry | None] = []
        for number, extents in _by_shard(wanted):
            shard = self.shard(number)
            found += [shard.get(extent) if shard else None for extent in extents]
        return found

    def at_hand(self, wanted: range) -> list[Entry | None] | None:
        """As `among`, if the shards are in memory."""
        found: list[Entry | None] = []
        for number, extents in _by_shard(wanted):
            ref = self._refs.get(number)
            shard = self._cache.peek((ref.where.name, ref.offset)) if ref else None
            if ref and shard is None:
                return None
            found += [shard.get(extent) if shard else None for extent in extents]
        return found

    def ref(self, number: int) -> ShardRef | None:
        """None: the shard holds zeros only."""
        return self._refs.get(number)

    def shard(self, number: int) -> Shard | None:
        ref = self._refs.get(number)
        return self.load(ref) if ref else None

    def load(self, ref: ShardRef) -> Shard:
        return self._cache.get((ref.where.name, ref.offset), lambda: self._fetch(ref), lambda _: ref.length)

    def _fetch(self, ref: ShardRef) -> Shard:
        return fetch_shard(self._store, ref)


def _by_shard(wanted: range) -> Iterator[tuple[int, range]]:
    """The extents `wanted` with the numbers of their shards."""
    at = wanted.start
    while at < wanted.stop:
        number = at // SHARD_EXTENTS
        end = min(wanted.stop, (number + 1) * SHARD_EXTENTS)
        yield number, range(at, end)
        at = end


def fetch_shard(store: ObjectStore, ref: ShardRef) -> Shard:
    """The shard that a manifest refers to. Raises DataLoss, Unavailable."""
    name = ref.where.name
    data = get_range(store, name, ref.offset, ref.length)
    if digest_of(data) != ref.digest:
        raise damaged(name, f"shard {ref.shard} at {ref.offset} does not match its manifest")
    shard = shards.decode(data, name)
    if shard.index != ref.shard or len(shard) != ref.entries:
        raise damaged(name, f"shard {ref.shard} is another one, or has lost extents")
    return shard


def load_manifest(store: ObjectStore, name: str, sha256_hex: str = "") -> Manifest:
    """The manifest `name`. Raises DataLoss if it is missing, damaged, or not of the digest given."""
    return _load(store, name, sha256_hex)[0]


def open_index(store: ObjectStore, name: str, sha256_hex: str, cache: ShardCache, unlock: Unlock) -> Index:
    """The index of a snapshot whose extents are to be read. `unlock` is asked only if it is encrypted.

    Raises as `load_manifest`, and what `unlock` raises.
    """
    manifest, data = _load(store, name, sha256_hex)
    keys = PLAIN
    if manifest.keys is not None:
        keys = manifests.open_keys(data, manifest, unlock(manifest), name)
    return Index(store, manifest, cache, keys)


def _load(store: ObjectStore, name: str, sha256_hex: str) -> tuple[Manifest, bytes]:
    data = get(store, name)
    if sha256_hex and digest_of(data).hex() != sha256_hex:
        raise damaged(name, "it is not the manifest that was recorded")
    return manifests.decode(data, name), data


def get(store: ObjectStore, name: str) -> bytes:
    """An object that must be there: a missing one is DataLoss."""
    try:
        return store.get(name)
    except NotFound as error:
        raise DataLoss("OBJECT_MISSING", error.message) from error


def get_range(store: ObjectStore, name: str, offset: int, length: int) -> bytes:
    """A part of an object that must be there: a missing one is DataLoss."""
    try:
        return store.get_range(name, offset, length)
    except NotFound as error:
        raise DataLoss("OBJECT_MISSING", error.message) from error


def get_pieces(store: ObjectStore, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
    """As `get_range`, in pieces."""
    try:
        yield from store.get_pieces(name, offset, lengths)
    except NotFound as error:
        raise DataLoss("OBJECT_MISSING", error.message) from error
