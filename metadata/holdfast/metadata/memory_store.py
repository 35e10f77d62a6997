"""A `Store` in memory, for tests of decisions: transactions and revisions as etcd has them.

It passes the same tests as the real one (tests/test_store.py). No watches, no leases that expire.
"""

from collections import OrderedDict
from collections.abc import Sequence

from holdfast.api.etcd.v1 import etcd_pb2 as pb
from holdfast.base.errors import OutcomeUnknown, Unavailable
from holdfast.metadata.etcd_types import Compacted, Compare, Entry, Op, TxnResult, prefix_end

HISTORY = 64


class MemoryStore:
    """Starts at revision 1, as etcd does.

    `lose_answer`: the next transaction is done, and its answer lost. `refuse`: the next one is not sent.
    Of the past it keeps HISTORY revisions.
    """

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[str, Entry] = {}
        self.lose_answer = False
        self.refuse = False
        self._past: OrderedDict[int, dict[str, Entry]] = OrderedDict({1: {}})

    def get(self, key: str) -> Entry | None:
        return self.entries.get(key)

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        return [self.entries.get(key) for key in keys]

    def range(
        self, prefix: str, limit: int = 0, start_after: str = "", revision: int = 0
    ) -> tuple[list[Entry], int]:
        entries = self.entries
        if revision and revision != self.revision:
            if revision not in self._past:
                raise Compacted(next(iter(self._past)))
            entries = self._past[revision]
        end = prefix_end(prefix)
        keys = sorted(key for key in entries if prefix.encode() <= key.encode() < end and key > start_after)
        return [entries[key] for key in (keys[:limit] if limit else keys)], revision or self.revision

    def transact(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        if self.refuse:
            self.refuse = False
            raise Unavailable("ETCD_UNREACHABLE", "The store refuses.")
        succeeded = all(self._holds(one.message) for one in compares)
        self._next = self.revision + 1
        responses = tuple(self._do(one.message) for one in (success if succeeded else failure))
        self._past[self.revision] = dict(self.entries)
        while len(self._past) > HISTORY:
            self._past.popitem(last=False)
        if self.lose_answer:
            self.lose_answer = False
            raise OutcomeUnknown("OUTCOME_UNKNOWN", "The store lost the answer.")
        return TxnResult(succeeded, self.revision, responses)

    def _below(self, key: bytes, range_end: bytes) -> list[str]:
        return sorted(name for name in self.entries if key <= name.encode() < range_end)

    def _holds(self, compare: pb.Compare) -> bool:
        names = [compare.key.decode()]
        if compare.range_end:
            names = self._below(compare.key, compare.range_end)
        return all(self._holds_for(compare, self.entries.get(name)) for name in names)

    def _holds_for(self, compare: pb.Compare, entry: Entry | None) -> bool:
        if compare.target == pb.Compare.VERSION:
            actual, wanted = (entry.version if entry else 0), compare.version
        elif compare.target == pb.Compare.MOD:
            actual, wanted = (entry.mod_revision if entry else 0), compare.mod_revision
        else:
            raise NotImplementedError(compare.target)
        return {
            pb.Compare.EQUAL: actual == wanted,
            pb.Compare.GREATER: actual > wanted,
            pb.Compare.LESS: actual < wanted,
            pb.Compare.NOT_EQUAL: actual != wanted,
        }[compare.result]

    def _do(self, op: pb.RequestOp) -> tuple[Entry, ...]:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            self._put(op.request_put)
            return ()
        if kind == "request_delete_range":
            wanted = op.request_delete_range
            names = [wanted.key.decode()]
            if wanted.range_end:
                names = self._below(wanted.key, wanted.range_end)
            if [self.entries.pop(name) for name in names if name in self.entries]:
                self.revision = self._next
            return ()
        entry = self.entries.get(op.request_range.key.decode())
        return (entry,) if entry else ()

    def _put(self, wanted: pb.PutRequest) -> None:
        self.revision = self._next
        name = wanted.key.decode()
        old = self.entries.get(name)
        self.entries[name] = Entry(
            name,
            wanted.value,
            old.create_revision if old else self.revision,
            self.revision,
            old.version + 1 if old else 1,
            wanted.lease,
        )
