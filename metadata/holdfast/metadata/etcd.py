"""A thin client of etcd's v3 API: reads, transactions, watches and leases. Synchronous, thread-safe.

Written because no published client does all of: several endpoints, keepalives, watches that resume
without loss or repetition, and the truth about a transaction whose answer was lost. There is no plain
`put`: every write is a transaction with comparisons, so that one sent twice is done once.
"""

import builtins
import threading
from collections.abc import Iterator, Sequence

import grpc

from holdfast.api.etcd.v1 import etcd_pb2 as pb
from holdfast.base.tls import TlsFiles
from holdfast.metadata import etcd_watch
from holdfast.metadata.etcd_endpoints import METADATA, Endpoints, may_pass, translate
from holdfast.metadata.etcd_types import (
    Compacted,
    Compare,
    Entry,
    Event,
    LeaseGone,
    Op,
    TxnResult,
    absent,
    delete,
    delete_prefix,
    entry_of,
    exists,
    get,
    mod_revision_is,
    prefix_end,
    prefix_not_after,
    put,
    result_of,
    unchanged,
)

__all__ = [
    "Compacted",
    "Compare",
    "Entry",
    "Etcd",
    "Event",
    "LeaseGone",
    "Op",
    "TlsFiles",
    "TxnResult",
    "absent",
    "delete",
    "delete_prefix",
    "exists",
    "get",
    "mod_revision_is",
    "prefix_not_after",
    "put",
    "unchanged",
]

RANGE_PAGE_ITEMS = 1_000
RANGE_ATTEMPTS = 3
# etcd takes at most 128 operations in a transaction.
GET_MANY_PAGE_ITEMS = 100


class Etcd:
    """A connection to one etcd cluster.

    Args:
        endpoints: "host:port" or URLs of its members; each call goes to one that answers.
        tls: how to prove who we are; None is clear text.
        timeout_s: how long any one call may take in all, failover included.

    Every call raises Unavailable ETCD_UNREACHABLE if no member answers in time.
    """

    def __init__(self, endpoints: Sequence[str], tls: TlsFiles | None = None, timeout_s: float = 5.0) -> None:
        self._endpoints = Endpoints(endpoints, tls, timeout_s)

    def get(self, key: str) -> Entry | None:
        response = self._range(pb.RangeRequest(key=key.encode()))
        return entry_of(response.kvs[0]) if response.kvs else None

    def range(
        self, prefix: str, limit: int = 0, start_after: str = "", revision: int = 0
    ) -> tuple[list[Entry], int]:
        """The entries below `prefix`, ascending by key, as they all were at the revision returned.

        Args:
            limit: at most so many; 0 is all of them, read in pages.
            start_after: only keys after this one.
            revision: as they were then; 0 is now. Raises Compacted if etcd has discarded that.
        """
        for attempt in builtins.range(1, RANGE_ATTEMPTS + 1):
            try:
                return self._pages(prefix, limit, start_after, revision)
            except Compacted:  # between two pages
                if revision or attempt == RANGE_ATTEMPTS:
                    raise
        raise AssertionError

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """What is at each of `keys`; those of one page are read at one revision."""
        found: list[Entry | None] = []
        for start in builtins.range(0, len(keys), GET_MANY_PAGE_ITEMS):
            page = keys[start : start + GET_MANY_PAGE_ITEMS]
            request = pb.TxnRequest(success=[get(key).message for key in page])
            response = self._endpoints.call("/etcdserverpb.KV/Txn", request, pb.TxnResponse, repeatable=True)
            found += [entries[0] if entries else None for entries in result_of(response).responses]
        return found

    def count(self, prefix: str) -> int:
        """How many keys there are below `prefix`."""
        request = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix), count_only=True)
        return self._range(request).count

    def transact(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        """Do `success` if all `compares` hold, else `failure`, as one step.

        Raises OutcomeUnknown if it may have been done: read again before anything else.
        """
        request = pb.TxnRequest(
            compare=[one.message for one in compares],
            success=[one.message for one in success],
            failure=[one.message for one in failure],
        )
        return result_of(
            self._endpoints.call("/etcdserverpb.KV/Txn", request, pb.TxnResponse, repeatable=False)
        )

    def watch(self, prefix: str, start_revision: int, stop: threading.Event) -> Iterator[list[Event]]:
        """Changes below `prefix` from `start_revision` (0: from now), in order, until `stop` is set.

        Goes on over server restarts and between members without loss or repetition. All events of one
        transaction are in one list. Raises Compacted if the history is gone.
        """
        return etcd_watch.watch(self._endpoints, prefix, start_revision, stop)

    def grant_lease(self, ttl_s: int) -> int:
        """A new lease's id. One whose answer was lost expires by itself."""
        request = pb.LeaseGrantRequest(TTL=ttl_s)
        response = self._endpoints.call(
            "/etcdserverpb.Lease/LeaseGrant", request, pb.LeaseGrantResponse, repeatable=True
        )
        return response.ID

    def keep_alive(self, lease_id: int) -> int:
        """Renew a lease, once; the seconds it now has. Raises LeaseGone, or Unavailable."""
        index, channel = self._endpoints.current()
        method = channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=pb.LeaseKeepAliveResponse.FromString,
        )
        request = pb.LeaseKeepAliveRequest(ID=lease_id)
        call = method(iter([request]), timeout=self._endpoints.timeout_s, metadata=METADATA)
        try:
            ttl_s = next(call).TTL
        except (grpc.RpcError, StopIteration) as error:
            self._endpoints.leave(index)
            if isinstance(error, grpc.RpcError) and not may_pass(error):
                raise translate(error) from error
            raise self._endpoints.unreachable(error) from error
        finally:
            call.cancel()
        if ttl_s <= 0:
            raise LeaseGone(lease_id)
        return ttl_s

    def revoke_lease(self, lease_id: int) -> None:
        """End a lease and delete its keys. Ending one that is gone does nothing."""
        request = pb.LeaseRevokeRequest(ID=lease_id)
        try:
            self._endpoints.call(
                "/etcdserverpb.Lease/LeaseRevoke", request, pb.LeaseRevokeResponse, repeatable=True
            )
        except LeaseGone:
            return

    def compact(self, revision: int) -> None:
        """Discard the history before `revision`."""
        request = pb.CompactionRequest(revision=revision)
        self._endpoints.call("/etcdserverpb.KV/Compact", request, pb.CompactionResponse, repeatable=True)

    def close(self) -> None:
        """End every call and watch. Idempotent."""
        self._endpoints.close()

    def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        return self._endpoints.call("/etcdserverpb.KV/Range", request, pb.RangeResponse, repeatable=True)

    def _pages(self, prefix: str, limit: int, start_after: str, revision: int) -> tuple[list[Entry], int]:
        request = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix), revision=revision)
        if start_after:
            request.key = start_after.encode() + b"\0"
        entries: list[Entry] = []
        while True:
            left = limit - len(entries) if limit else RANGE_PAGE_ITEMS
            request.limit = min(left, RANGE_PAGE_ITEMS)
            response = self._range(request)
            entries += [entry_of(kv) for kv in response.kvs]
            request.revision = request.revision or response.header.revision
            if not response.more or (limit and len(entries) >= limit):
                return entries, request.revision
            request.key = response.kvs[-1].key + b"\0"
