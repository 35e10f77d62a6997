"""What a snapshot takes, as the last collection of objects has counted it."""

from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.cli.show import moment
from holdfast.cli.sizes import show_size


def counted(snapshot: pb.Snapshot) -> list[tuple[str, str]]:
    """For `snapshot show`."""
    if not snapshot.HasField("sizes"):
        return []
    sizes = snapshot.sizes
    return [
        ("Logical", f"{show_size(sizes.logical_bytes)} that are not zero"),
        ("In store", f"{show_size(sizes.stored_bytes)}, what it shares included"),
        ("Exclusive", f"{show_size(sizes.exclusive_bytes)}: what deleting it would free"),
        ("Counted", moment(sizes.count_time)),
    ]


def exclusive(snapshot: pb.Snapshot) -> str:
    """For a list."""
    return show_size(snapshot.sizes.exclusive_bytes) if snapshot.HasField("sizes") else "-"
