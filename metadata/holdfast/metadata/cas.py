"""Read, decide, compare and swap: how every change in etcd is made.

A decision is a function of a `Draft`: it reads records from it, writes records to it, and does nothing
else. `run` carries it out as one transaction that compares the revision of everything the decision read,
and decides again if any of it has changed or if the outcome is unknown. So a decision must look whether
what it is about to do is already done.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from holdfast.base.errors import NotFound, OutcomeUnknown, Unavailable
from holdfast.metadata import etcd_types as etcd
from holdfast.metadata.records import M, decode, encode

T = TypeVar("T")
ATTEMPTS = 24
PAUSE_MAX_S = 0.05


class Changed(Exception):
    """Raised by a decision that saw records which do not belong together: it is made again."""


class Store(Protocol):
    """What `run` needs of etcd. `Etcd` is one; `MemoryStore` is another, for tests."""

    def get(self, key: str) -> etcd.Entry | None: ...

    def get_many(self, keys: Sequence[str]) -> list[etcd.Entry | None]: ...

    def range(
        self, prefix: str, limit: int = 0, start_after: str = "", revision: int = 0
    ) -> tuple[list[etcd.Entry], int]: ...

    def transact(
        self,
        compares: Sequence[etcd.Compare],
        success: Sequence[etcd.Op],
        failure: Sequence[etcd.Op] = (),
    ) -> etcd.TxnResult: ...


class Draft:
    """Records as they were read, and what is to become of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, etcd.Entry | None] = {}
        self._compares: dict[str, etcd.Compare] = {}
        self._written: dict[str, Message | None] = {}
        self._ops: dict[str, etcd.Op] = {}

    def entry(self, key: str) -> etcd.Entry | None:
        """What etcd holds at `key`; the transaction compares that it still does."""
        if key not in self._read:
            self._saw(key, self._store.get(key))
        return self._read[key]

    def fetch(self, keys: Sequence[str]) -> None:
        """Read these in one go, as if by `entry`: for decisions that somebody waits for."""
        wanted = [key for key in keys if key not in self._read]
        for key, entry in zip(wanted, self._store.get_many(wanted), strict=True):
            self._saw(key, entry)

    def get(self, key: str, message_type: type[M]) -> M | None:
        """A copy of the record at `key`, as this draft leaves it. Change it, then `put` it."""
        if key in self._written:
            written = self._written[key]
            return message_type.FromString(written.SerializeToString()) if written is not None else None
        entry = self.entry(key)
        return decode(message_type, entry.value) if entry else None

    def need(self, key: str, message_type: type[M]) -> M:
        """As `get`; raises NotFound if there is none."""
        record = self.get(key, message_type)
        if record is None:
            raise NotFound("NOT_FOUND", f"There is no {key.rpartition('/v1/')[2]}.")
        return record

    def under(self, prefix: str, message_type: type[M]) -> list[M]:
        """The records below `prefix`; the transaction compares that they are unchanged and no more came."""
        entries, revision = self._store.range(prefix)
        self._compares[prefix] = etcd.prefix_not_after(prefix, revision)
        for entry in entries:
            self._saw(entry.key, entry)
        return [decode(message_type, entry.value) for entry in entries]

    def peek(self, key: str, message_type: type[M]) -> M | None:
        """As `get`, but nothing is compared: for what may change without making the decision wrong."""
        entry = self._store.get(key)
        return decode(message_type, entry.value) if entry else None

    def peek_under(self, prefix: str, message_type: type[M]) -> list[M]:
        """As `under`, but nothing is compared."""
        return [decode(message_type, entry.value) for entry in self._store.range(prefix)[0]]

    def put(self, key: str, record: Message, lease_id: int = 0) -> bool:
        """Make `record` the value at `key`. False, and no write, if it already is."""
        value = encode(record)
        before = self._read.get(key)
        self._written[key] = type(record).FromString(record.SerializeToString())
        if before is not None and before.value == value and before.lease_id == lease_id:
            self._ops.pop(key, None)
            return False
        self._ops[key] = etcd.put(key, value, lease_id)
        return True

    def delete(self, key: str) -> None:
        self._written[key] = None
        self._ops[key] = etcd.delete(key)

    def delete_under(self, prefix: str) -> None:
        """Delete every key below `prefix`, those that come until the transaction included."""
        self._ops[prefix] = etcd.delete_prefix(prefix)

    def commit(self) -> bool:
        """Whether the transaction was done: False if something read has changed. See `Etcd.transact`."""
        if not self._ops:
            return True
        return self._store.transact(list(self._compares.values()), list(self._ops.values())).succeeded

    def _saw(self, key: str, entry: etcd.Entry | None) -> None:
        self._read[key] = entry
        self._compares[key] = etcd.mod_revision_is(key, entry.mod_revision if entry else 0)


def run(store: Store, decide: Callable[[Draft], T]) -> T:
    """Carry out a decision; what it returned the time that counted.

    Raises what `decide` raises; Unavailable ETCD_UNREACHABLE (nothing was changed), or OUTCOME_UNKNOWN if
    etcd was lost while it changed something; Unavailable CONTENDED if others kept changing what it reads.
    """
    unknown: OutcomeUnknown | None = None
    for _ in range(ATTEMPTS):
        draft = Draft(store)
        try:
            result = decide(draft)
            if draft.commit():
                return result
        except Changed:
            pass
        except OutcomeUnknown as error:
            unknown = error
        except Unavailable as error:
            # An earlier attempt may have been carried out: that is what must be told.
            raise unknown or error from error
        # Losers of a race try again at different moments.
        threading.Event().wait(random.uniform(0, PAUSE_MAX_S))
    raise unknown or Unavailable(
        "CONTENDED", f"Others kept changing the same records for {ATTEMPTS} attempts: try again."
    )
