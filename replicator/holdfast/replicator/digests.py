"""What an extent holds, in few bytes: to compare two copies without sending either."""

from _blake2 import blake2b  # hashlib would load OpenSSL: 4 MiB of a worker without TLS
from functools import partial

from holdfast.base.steps import Resume, Steps
from holdfast.replicator.local import LocalReplica

DIGEST_BYTES = 16
MISSING = "missing"


def digests(local: LocalReplica, extents: list[int]) -> Steps[list[str]]:
    """BLAKE2b of each extent's bytes here, or MISSING if only the origin has them. Nothing may be under way
    on them. Raises OSError.
    """
    result = yield partial(_in_pool, local, extents)
    return list(result)


def _in_pool(local: LocalReplica, extents: list[int], resume: Resume) -> None:
    local.loop.in_pool(partial(_digests, local, extents), resume, resume)


def _digests(local: LocalReplica, extents: list[int]) -> list[str]:
    store = local.store
    return [
        MISSING
        if store.missing.get(extent)
        else blake2b(store.data.read(*store.extent_range(extent)), digest_size=DIGEST_BYTES).hexdigest()
        for extent in extents
    ]
