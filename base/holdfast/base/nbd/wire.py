"""The numbers of the NBD protocol, its structs, and what an outcome is called on the wire.

Source: doc/proto.md of github.com/NetworkBlockDevice/nbd. Names are the protocol's, less `NBD_`.
Everything is in network byte order. Only what Holdfast speaks is here.
"""

import struct

from holdfast.base.device import Outcome
from holdfast.base.limits import KIB, MIB, NBD_REQUEST_MAX_BYTES

# Handshake.
INIT_PASSWD = 0x4E42444D41474943  # "NBDMAGIC"
IHAVEOPT = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1
FLAG_C_FIXED_NEWSTYLE = 1 << 0
FLAG_C_NO_ZEROES = 1 << 1

GREETING = struct.Struct("!QQH")
CLIENT_FLAGS = struct.Struct("!I")
OPTION = struct.Struct("!QII")
"""IHAVEOPT, option, length of the data that follows."""
OPTION_REPLY = struct.Struct("!QIII")
"""OPTION_REPLY_MAGIC, option, reply type, length of the data that follows."""
EXPORT_NAME_REPLY = struct.Struct("!QH")
EXPORT_NAME_ZEROES = bytes(124)

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_ERR = 1 << 31
REP_ERR_UNSUP = REP_ERR + 1
REP_ERR_POLICY = REP_ERR + 2
REP_ERR_INVALID = REP_ERR + 3
REP_ERR_TLS_REQD = REP_ERR + 5
REP_ERR_UNKNOWN = REP_ERR + 6
REP_ERR_SHUTDOWN = REP_ERR + 7

INFO_EXPORT = 0
INFO_NAME = 1
INFO_BLOCK_SIZE = 3
INFO_EXPORT_DATA = struct.Struct("!HQH")
INFO_BLOCK_SIZE_DATA = struct.Struct("!HIII")

# Transmission flags of an export.
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8
FLAG_SEND_CACHE = 1 << 10

# Transmission.
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

REQUEST = struct.Struct("!IHHQQI")
"""REQUEST_MAGIC, command flags, type, cookie, offset, length."""
SIMPLE_REPLY = struct.Struct("!IIQ")
"""SIMPLE_REPLY_MAGIC, error, cookie."""
CHUNK = struct.Struct("!IHHQI")
"""STRUCTURED_REPLY_MAGIC, flags, type, cookie, length of the payload."""
OFFSET_DATA_CHUNK = struct.Struct("!IHHQIQ")
"""A CHUNK with the offset that its data starts at; the data follows."""
OFFSET_HOLE = struct.Struct("!QI")
CHUNK_ERROR = struct.Struct("!IH")
"""Error, length of the message that follows."""
U32 = struct.Struct("!I")
U64 = struct.Struct("!Q")
DESCRIPTOR = struct.Struct("!II")
"""Of a block status: length, flags."""

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
CMD_HOLDFAST_CONTROL = 0x4846
"""Private ("HF"): `length` bytes of payload follow the request. A reply without error is a simple reply
followed by a U32 length and that many bytes. Served only by exports that say `private`, and only where
structured replies were not negotiated; see docs/nbd.md."""

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3

REPLY_FLAG_DONE = 1 << 0
REPLY_TYPE_NONE = 0
REPLY_TYPE_OFFSET_DATA = 1
REPLY_TYPE_OFFSET_HOLE = 2
REPLY_TYPE_BLOCK_STATUS = 5
REPLY_TYPE_ERROR_BIT = 1 << 15
REPLY_TYPE_ERROR = REPLY_TYPE_ERROR_BIT + 1

CONTEXT_ALLOCATION = "base:allocation"
STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1

# Errors.
EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95
ESHUTDOWN = 108

# Limits.
BLOCK_MIN_BYTES = 1
BLOCK_PREFERRED_BYTES = 4 * KIB
BLOCK_MAX_BYTES = NBD_REQUEST_MAX_BYTES
STRING_MAX_BYTES = 4 * KIB
"""The protocol's own limit for names and messages."""
OPTION_MAX_BYTES = 16 * KIB
"""Longest option or option reply that either end takes."""
CONTEXTS_MAX = 32
"""Most metadata contexts, or queries for them, in one option."""
CONTROL_MAX_BYTES = 1 * MIB
"""Longest payload of the private command, and of its answer."""
STATUS_MAX_RUNS = 8192
"""Most descriptors in one block status reply; the client asks again from where it ends."""

_ERRORS = {
    Outcome.OK: 0,
    # The protocol has no "try again". ENOMEM, "not now", is the one error that promises nothing lasting.
    Outcome.BUSY: ENOMEM,
    # No NBD command compares; a device that says so has misunderstood a request.
    Outcome.MISCOMPARE: EINVAL,
    Outcome.NO_SPACE: ENOSPC,
    Outcome.MEDIUM_ERROR: EIO,
    # "If the client receives an ESHUTDOWN error it MUST initiate a soft disconnect": what a session of
    # an epoch that is over has to do.
    Outcome.STALE_EPOCH: ESHUTDOWN,
    # No export has a path that is not the active one; if one had, it would not support what was asked.
    Outcome.STANDBY: ENOTSUP,
    Outcome.READ_ONLY: EPERM,
    Outcome.INVALID: EINVAL,
}
_OUTCOMES = {
    0: Outcome.OK,
    EPERM: Outcome.READ_ONLY,
    EIO: Outcome.MEDIUM_ERROR,
    ENOMEM: Outcome.BUSY,
    EINVAL: Outcome.INVALID,
    ENOSPC: Outcome.NO_SPACE,
    EOVERFLOW: Outcome.INVALID,
    ENOTSUP: Outcome.STANDBY,
    ESHUTDOWN: Outcome.STALE_EPOCH,
}


class ProtocolError(Exception):
    """The other end broke the protocol; nothing more that it says can be understood. The message says how."""


def error_of(outcome: Outcome) -> int:
    """What to put in a reply's error field."""
    return _ERRORS[outcome]


def outcome_of(error: int) -> Outcome:
    """What a reply's error field means; what the protocol does not define is a MEDIUM_ERROR."""
    return _OUTCOMES.get(error, Outcome.MEDIUM_ERROR)
