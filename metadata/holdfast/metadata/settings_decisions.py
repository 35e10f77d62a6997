"""What an owner, or the cluster, has set: decisions over a draft (see cas.py)."""

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft
from holdfast.metadata.updates import check_etag

RECYCLE_DEFAULT_S = 7 * 86_400
RECYCLE_MAX_S = 366 * 86_400


@dataclass(frozen=True)
class SettingsChange:
    """A validated request. `owner`: empty for the cluster's. `recycle_s`: None for no setting of its own."""

    owner: str
    paths: frozenset[str]
    recycle_s: int | None
    etag: str


def check_recycle_s(recycle_s: int) -> int:
    if not 0 <= recycle_s <= RECYCLE_MAX_S:
        raise BadInput(
            "BAD_DURATION",
            f"{recycle_s} s in the recycle bin is not within 0 and {RECYCLE_MAX_S}: correct it.",
        )
    return recycle_s


def settings_of(draft: Draft, owner: str) -> r.SettingsRecord:
    """`owner`'s own settings; with an empty owner, the cluster's."""
    return draft.get(keys.settings(owner), r.SettingsRecord) or r.SettingsRecord()


def recycle_s_of(draft: Draft, owner: str) -> int:
    """What counts for `owner`; with an empty owner, for those who have set nothing."""
    return effective_recycle_s([settings_of(draft, one) for one in (owner, "")])


def effective_recycle_s(records: Iterable[r.SettingsRecord]) -> int:
    """That of the first record that has it."""
    return next((one.recycle_s for one in records if one.HasField("recycle_s")), RECYCLE_DEFAULT_S)


def update(draft: Draft, change: SettingsChange) -> tuple[r.SettingsRecord, bool]:
    """The record, and whether it differs from before. Raises Precondition STALE_ETAG."""
    record = settings_of(draft, change.owner)
    check_etag("The settings", change.etag, record.revision)
    before = record.SerializeToString()
    if "recycle_s" in change.paths:
        record.ClearField("recycle_s")
        if change.recycle_s is not None:
            record.recycle_s = change.recycle_s
    if record.SerializeToString() == before:
        return record, False
    record.revision += 1
    return record, draft.put(keys.settings(change.owner), record)
