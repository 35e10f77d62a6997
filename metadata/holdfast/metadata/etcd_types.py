"""What goes into and comes out of etcd: entries, events, comparisons and operations, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.api.etcd.v1 import etcd_pb2 as pb
from holdfast.base.errors import HoldfastError


class Compacted(HoldfastError):
    """The revisions asked for are no longer kept: read everything again, then watch from there."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__("COMPACTED", f"etcd has discarded its history before revision {compact_revision}.")
        self.compact_revision = compact_revision


class LeaseGone(HoldfastError):
    """The lease has expired or was revoked, and its keys with it."""

    def __init__(self, lease_id: int) -> None:
        super().__init__("LEASE_GONE", f"The etcd lease {lease_id:x} no longer exists.")
        self.lease_id = lease_id


@dataclass(frozen=True)
class Entry:
    """One key as it was at a revision. `mod_revision` is the store's revision of its last change."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease_id: int


@dataclass(frozen=True)
class Event:
    """A key was put (`entry` is what it is now) or deleted (`entry` is None) at `revision`."""

    key: str
    entry: Entry | None
    revision: int


@dataclass(frozen=True)
class Compare:
    """A condition of a transaction; made by the functions below."""

    message: pb.Compare


@dataclass(frozen=True)
class Op:
    """An operation of a transaction; made by the functions below."""

    message: pb.RequestOp


@dataclass(frozen=True)
class TxnResult:
    """`responses` has one item per operation of the branch taken: what a get found, else ()."""

    succeeded: bool
    revision: int
    responses: tuple[tuple[Entry, ...], ...]


def prefix_end(prefix: str) -> bytes:
    """The first key after every key that starts with `prefix`. Keys are UTF-8: no byte of one is 0xff."""
    raw = bytearray(prefix.encode())
    raw[-1] += 1
    return bytes(raw)


def exists(key: str) -> Compare:
    return Compare(
        pb.Compare(result=pb.Compare.GREATER, target=pb.Compare.VERSION, key=key.encode(), version=0)
    )


def absent(key: str) -> Compare:
    return Compare(
        pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.VERSION, key=key.encode(), version=0)
    )


def mod_revision_is(key: str, revision: int) -> Compare:
    """True while `key` has not been changed since `revision`; 0 means that it does not exist."""
    return Compare(
        pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=key.encode(), mod_revision=revision)
    )


def unchanged(entry: Entry) -> Compare:
    return mod_revision_is(entry.key, entry.mod_revision)


def prefix_not_after(prefix: str, revision: int) -> Compare:
    """True if no key below `prefix` was made or changed after `revision`. Says nothing of deletions."""
    return Compare(
        pb.Compare(
            result=pb.Compare.LESS,
            target=pb.Compare.MOD,
            key=prefix.encode(),
            range_end=prefix_end(prefix),
            mod_revision=revision + 1,
        )
    )


def put(key: str, value: bytes, lease_id: int = 0) -> Op:
    return Op(pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease_id)))


def delete(key: str) -> Op:
    return Op(pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode())))


def delete_prefix(prefix: str) -> Op:
    return Op(
        pb.RequestOp(
            request_delete_range=pb.DeleteRangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
        )
    )


def get(key: str) -> Op:
    return Op(pb.RequestOp(request_range=pb.RangeRequest(key=key.encode())))


def entry_of(kv: pb.KeyValue) -> Entry:
    return Entry(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def event_of(event: pb.Event) -> Event:
    deleted = event.type == pb.Event.DELETE
    return Event(event.kv.key.decode(), None if deleted else entry_of(event.kv), event.kv.mod_revision)


def result_of(response: pb.TxnResponse) -> TxnResult:
    def entries(one: pb.ResponseOp) -> Sequence[pb.KeyValue]:
        return one.response_range.kvs

    found = tuple(tuple(entry_of(kv) for kv in entries(one)) for one in response.responses)
    return TxnResult(response.succeeded, response.header.revision, found)
