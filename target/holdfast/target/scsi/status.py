"""SCSI statuses and sense data (SAM-5 5.3, SPC-4 4.5.3: fixed format, current errors, D_SENSE=0)."""

from holdfast.base.device import Outcome

GOOD = 0x00
CHECK_CONDITION = 0x02
BUSY = 0x08

NO_SENSE = 0x0
NOT_READY = 0x2
MEDIUM_ERROR = 0x3
ILLEGAL_REQUEST = 0x5
UNIT_ATTENTION = 0x6
DATA_PROTECT = 0x7
MISCOMPARE = 0xE

INFORMATION_MAX = 0xFFFFFFFF


def sense(key: int, asc: int, ascq: int, information: int | None = None) -> bytes:
    """18 bytes of fixed-format sense; INFORMATION is valid only if given and fits in 4 bytes."""
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
            *bytes(4),
        ]
    )


INVALID_OPCODE = sense(ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = sense(ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = sense(ILLEGAL_REQUEST, 0x24, 0x00)
INVALID_FIELD_IN_PARAMETERS = sense(ILLEGAL_REQUEST, 0x26, 0x00)
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
