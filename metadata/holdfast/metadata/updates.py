"""What every Update of the API shares: a field mask that names what it sets, and an etag."""

from collections.abc import Collection

from google.protobuf.field_mask_pb2 import FieldMask

from holdfast.base.errors import BadInput, Precondition


def check_mask(mask: FieldMask, allowed: Collection[str]) -> frozenset[str]:
    """The fields to set. Raises BadInput BAD_MASK if there are none, or one that cannot be set."""
    paths = frozenset(mask.paths)
    if not paths or not paths <= set(allowed):
        named = ", ".join(sorted(paths))[:80] or "nothing"
        raise BadInput(
            "BAD_MASK", f"update_mask names {named}: it takes one or more of {', '.join(sorted(allowed))}."
        )
    return paths


def etag_of(revision: int) -> str:
    return f"r{revision}"


def check_etag(what: str, etag: str, revision: int) -> None:
    """Raise Precondition STALE_ETAG unless `etag` is empty or of this revision."""
    if etag and etag != etag_of(revision):
        raise Precondition("STALE_ETAG", f"{what} changed since you got {etag[:40]!r}: get it again.")
