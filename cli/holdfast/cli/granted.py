"""Other owners' snapshots, as whoever is granted them sees them."""

from collections.abc import Iterable

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.cli.session import Session
from holdfast.cli.show import emit, moment, state_name, table
from holdfast.cli.sizes import show_size

PERMISSIONS = {
    "make-volumes": r.GRANT_PERMISSION_MAKE_VOLUMES,
    "read-blocks": r.GRANT_PERMISSION_READ_BLOCKS,
}


def permitted(permissions: Iterable["r.GrantPermission.ValueType"]) -> str:
    """In the words in which they are given."""
    known = set(permissions)
    return ", ".join(word for word, one in PERMISSIONS.items() if one in known)


def show_granted(at: Session, public: bool, owner: str) -> None:
    """What others granted to the caller, or to everyone, as a list."""
    request = pb.ListSnapshotsRequest(granted=True, public=public, owner=owner)
    response = at.pages(at.client.snapshots.ListSnapshots, request)
    rows = [
        [
            f"{one.owner}/{one.snapshot_id}",
            show_size(one.size_bytes),
            state_name(r.SnapshotState.Name(one.state)),
            permitted(one.granted_permissions),
            moment(one.create_time),
        ]
        for one in response.snapshots
    ]
    emit(
        response, lambda: table(["SNAPSHOT", "SIZE", "STATE", "YOU MAY", "CREATED"], rows, "There are none.")
    )
