"""Names that callers choose, uids that we make, and the iSCSI and SCSI identities that follow from them.

Keys, directories, exports, IQN and NAA go by the uid alone: a caller's id is unique for its owner
only, and must reveal nothing to others (I-10).
"""

import os
import re

from holdfast.base.errors import BadInput
from holdfast.base.limits import NAME_MAX_CHARS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_UID = re.compile(r"[0-9a-f]{24}")
# RFC 7143 4.2.7: iqn.yyyy-mm.reversed-domain[:anything], eui. + 16 hex, naa. + 16 or 32 hex.
# LIO takes at most 223 bytes, and we take lower case only, which is what initiators normalise to.
_INITIATOR = re.compile(
    r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*(:[a-z0-9.:_-]+)?"
    r"|eui\.[0-9a-f]{16}|naa\.([0-9a-f]{16}|[0-9a-f]{32})"
)
IQN_MAX_BYTES = 223
_IQN_PREFIX = "iqn.2026-11.io.holdfast:"


def check_name(kind: str, name: str) -> str:
    """Return `name` if a caller may choose it as the id of a `kind`; raise BadInput BAD_ID."""
    if len(name) > NAME_MAX_CHARS or not _NAME.fullmatch(name):
        raise BadInput(
            "BAD_ID",
            f"{kind} id {name[:80]!r} is malformed: use 1 to {NAME_MAX_CHARS} characters of a-z, 0-9, "
            "'.', '_' and '-', the first a letter or digit.",
        )
    return name


def check_initiator(name: str) -> str:
    """Return `name` if it is an iSCSI name (RFC 7143 4.2.7); raise BadInput BAD_IQN."""
    if len(name.encode()) > IQN_MAX_BYTES or not _INITIATOR.fullmatch(name):
        raise BadInput(
            "BAD_IQN",
            f"initiator name {name[:80]!r} is malformed: it looks like "
            "iqn.2026-01.com.example:host1, in lower case (see /etc/iscsi/initiatorname.iscsi).",
        )
    return name


def new_uid() -> str:
    """96 random bits in hexadecimal: never used again, and nothing to guess."""
    return os.urandom(12).hex()


def is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None


def target_iqn(volume_uid: str) -> str:
    return _IQN_PREFIX + volume_uid


def naa(volume_uid: str) -> str:
    """NAA type 6 (SPC-4 7.8.6.6.5: 4 bits 6h, 24 bits of IEEE company id, 100 bits of our own).

    LIO's own company id 001405h is used, as every TCMU device does, with the uid's 96 bits behind it.
    """
    return "6001405" + volume_uid + "0"
