"""Other owners' snapshots, as they are listed and shown to whom they are granted."""

from collections.abc import Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1.snapshot_pb2 import ListSnapshotsRequest, Snapshot
from holdfast.metadata import keys
from holdfast.metadata.lookups import EVERYONE, OUT_OF_SIGHT, grants_of
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.service import Service
from holdfast.metadata.views import granted_view, owned_view


def shown_to(service: Service, user: str, snapshot: r.SnapshotRecord) -> Snapshot:
    """A snapshot that `user` may see, as it is shown to them."""
    if snapshot.owner == user:
        return owned_views(service, [snapshot])[0]
    return granted_view(snapshot, service.look(lambda draft: grants_of(draft, snapshot.uid, user)))


def owned_views(service: Service, snapshots: Sequence[r.SnapshotRecord]) -> list[Snapshot]:
    """As their owner is shown them."""
    counted = service.records([keys.sizes(one.uid) for one in snapshots], r.SizesRecord)
    return [owned_view(one, sizes) for one, sizes in zip(snapshots, counted, strict=True)]


def page_of_granted(service: Service, user: str, request: ListSnapshotsRequest) -> tuple[list[Snapshot], str]:
    """A page of what is granted to `user` (by name, or to everyone) and owned by others."""
    grantees = [EVERYONE] if request.public else [user, EVERYONE]

    def fetch(after: str, limit: int) -> list[tuple[str, Snapshot | None]]:
        page = _indexed(service, grantees, after, limit)
        found = service.records([keys.snapshot(uid) for uid in page], r.SnapshotRecord)
        return [(uid, show(one)) for uid, one in zip(page, found, strict=True)]

    def show(snapshot: r.SnapshotRecord | None) -> Snapshot | None:
        if snapshot is None or snapshot.state in OUT_OF_SIGHT or snapshot.owner == user:
            return None
        if request.owner not in ("", snapshot.owner):
            return None
        grants = service.look(lambda draft: grants_of(draft, snapshot.uid, user))
        return granted_view(snapshot, grants) if any(one.user in grantees for one in grants) else None

    return fill(page_size(request.page_size), read_token(request.page_token), fetch)


def _indexed(service: Service, grantees: Sequence[str], after: str, limit: int) -> list[str]:
    """Uids in the indexes of what is granted to any of `grantees`, ascending.

    An entry may outlive its snapshot's deletion; without the grant it says nothing.
    """
    uids: set[str] = set()
    for grantee in grantees:
        prefix = keys.granted_to(grantee)
        entries, _ = service.etcd.range(prefix, limit, prefix + after if after else "")
        uids |= {entry.key.removeprefix(prefix) for entry in entries}
    return sorted(uids)[:limit]
