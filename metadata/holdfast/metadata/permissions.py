"""What grants let their user do. Pure."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, Denied

MAKE_VOLUMES = r.GRANT_PERMISSION_MAKE_VOLUMES
READ_BLOCKS = r.GRANT_PERMISSION_READ_BLOCKS
Permission: TypeAlias = "r.GrantPermission.ValueType"
_WORDS = {MAKE_VOLUMES: "to make volumes from it", READ_BLOCKS: "to read its blocks"}


def check_permissions(asked: Iterable[Permission]) -> list[Permission]:
    """As they are recorded: each once, ascending, never none. Raises BadInput BAD_PERMISSION."""
    wanted = sorted(set(asked)) or [MAKE_VOLUMES]
    for one in wanted:
        if one not in _WORDS:
            raise BadInput("BAD_PERMISSION", f"Permission {one} is not known here: leave it out.")
    return wanted


def of_grant(grant: r.GrantRecord) -> Sequence[Permission]:
    """What one grant permits; a record of before there were permissions says none."""
    return list(grant.permissions) or [MAKE_VOLUMES]


def permit(grants: Iterable[r.GrantRecord | None], permission: Permission) -> bool:
    """Whether any of the grants does."""
    return any(grant is not None and permission in of_grant(grant) for grant in grants)


def not_granted(snapshot_id: str, permission: Permission) -> Denied:
    """For who may see the snapshot: it is no secret from them that it is there."""
    return Denied(
        "NOT_GRANTED",
        f"You may see snapshot {snapshot_id!r}, but are not granted {_WORDS[permission]}: ask its owner.",
    )
