"""SCSI statuses and sense data (SAM-5 5.3, SPC-4 4.5.3: fixed format, current errors, D_SENSE=0)."""

from functools import cache

from holdfast.base.device import Outcome

GOOD = 0x00
CHECK_CONDITION = 0x02
CONDITION_MET = 0x04
BUSY = 0x08

NO_SENSE = 0x0
NOT_READY = 0x2
MEDIUM_ERROR = 0x3
ILLEGAL_REQUEST = 0x5
UNIT_ATTENTION = 0x6
DATA_PROTECT = 0x7
MISCOMPARE = 0xE

INFORMATION_MAX = 0xFFFFFFFF


def sense(key: int, asc: int, ascq: int, information: int | None = None, specific: bytes = bytes(3)) -> bytes:
    """18 bytes of fixed-format sense; INFORMATION is valid only if given and fits in 4 bytes.

    `specific` is the sense-key specific field (SPC-4 4.5.2.4).
    """
    valid = information is not None and information <= INFORMATION_MAX
    return bytes(
        [
            0xF0 if valid else 0x70,
            0,
            key,
            *(information if valid and information is not None else 0).to_bytes(4, "big"),
            10,
            *bytes(4),
            asc,
            ascq,
            *bytes(1),
            *specific,
        ]
    )


_IN_CDB = 0xC0
_IN_PARAMETERS = 0x80
_BIT_VALID = 0x08


@cache
def bad_field(at: int, bit: int | None = None) -> bytes:
    """INVALID FIELD IN CDB, pointing at the byte, and at the highest bit of the field within it."""
    return sense(ILLEGAL_REQUEST, 0x24, 0x00, specific=_pointer(_IN_CDB, at, bit))


@cache
def bad_parameter(at: int, bit: int | None = None) -> bytes:
    """INVALID FIELD IN PARAMETER LIST, pointing into the Data-Out Buffer."""
    return sense(ILLEGAL_REQUEST, 0x26, 0x00, specific=_pointer(_IN_PARAMETERS, at, bit))


def _pointer(where: int, at: int, bit: int | None) -> bytes:
    return bytes([where | (0 if bit is None else _BIT_VALID | bit), *at.to_bytes(2, "big")])


INVALID_OPCODE = sense(ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = sense(ILLEGAL_REQUEST, 0x21, 0x00)
WRONG_LENGTH = sense(ILLEGAL_REQUEST, 0x0E, 0x03)
"""INVALID FIELD IN COMMAND INFORMATION UNIT: the initiator announced another length of data than its CDB
means. LIO says the same of its own backstores. (A target may move what fits and report a residual; through
TCMU no overflow can be reported, and without that what is missing would look as if it were there.)"""
PARAMETER_LIST_LENGTH_ERROR = sense(ILLEGAL_REQUEST, 0x1A, 0x00)
SAVING_NOT_SUPPORTED = sense(ILLEGAL_REQUEST, 0x39, 0x00)
READ_FAILED = sense(MEDIUM_ERROR, 0x11, 0x00)
WRITE_FAILED = sense(MEDIUM_ERROR, 0x0C, 0x00)
WRITE_PROTECTED = sense(DATA_PROTECT, 0x27, 0x00)
PATH_STANDBY = sense(NOT_READY, 0x04, 0x0B)
"""LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE (SPC-4 5.15.2.4.4)."""
PATH_UNAVAILABLE = sense(NOT_READY, 0x04, 0x0C)
"""LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE (SPC-4 5.15.2.4.5)."""
NO_SPACE = sense(DATA_PROTECT, 0x27, 0x07)
"""SPACE ALLOCATION FAILED WRITE PROTECT (SBC-3 4.7.3.6)."""


def of_outcome(outcome: Outcome, reading: bool, miscompare_offset: int = 0) -> tuple[int, bytes]:
    """The status and sense that an initiator gets for a device's outcome.

    STALE_EPOCH is BUSY: the initiator tries again, here in vain or on the host that owns the volume by then.
    STANDBY sends it to another path; a unit whose path is unavailable says that instead (executor.py).
    """
    if outcome is Outcome.OK:
        return GOOD, b""
    if outcome in (Outcome.BUSY, Outcome.STALE_EPOCH):
        return BUSY, b""
    if outcome is Outcome.MISCOMPARE:
        # SBC-3 5.2: where in the Data-Out Buffer the first difference is.
        return CHECK_CONDITION, sense(MISCOMPARE, 0x1D, 0x00, miscompare_offset)
    return CHECK_CONDITION, {
        Outcome.STANDBY: PATH_STANDBY,
        Outcome.NO_SPACE: NO_SPACE,
        Outcome.READ_ONLY: WRITE_PROTECTED,
        Outcome.INVALID: LBA_OUT_OF_RANGE,
    }.get(outcome, READ_FAILED if reading else WRITE_FAILED)
