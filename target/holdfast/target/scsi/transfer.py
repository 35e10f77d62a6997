"""Commands that move, check or settle the medium's bytes (SBC-3 5.9 to 5.36)."""

from collections.abc import Callable
from struct import Struct

from holdfast.base.device import Op
from holdfast.base.limits import MIB
from holdfast.target.scsi.plan import Plan, Step, Steps, Transfer, good, refused
from holdfast.target.scsi.status import INVALID_FIELD_IN_CDB, LBA_OUT_OF_RANGE, WRITE_PROTECTED
from holdfast.target.scsi.unit import (
    COMPARE_MAX_BYTES,
    LOGICAL_BLOCK_BYTES,
    TRANSFER_MAX_BYTES,
    ZERO_MAX_BYTES,
    Unit,
)

CHUNK_BYTES = MIB
_TRANSFER_MAX_BLOCKS = TRANSFER_MAX_BYTES // LOGICAL_BLOCK_BYTES
_PROTECT = 0xE0
_FUA = 0x08
_IMMED = 0x02
_BYTCHK = 0x06
_BYTCHK_COMPARE = 0x02

Planner = Callable[[bytes, Unit], Plan]

# Flags, LBA and number of blocks, by the size of the CDB.
FIELDS_10 = Struct(">xBIxH")
FIELDS_12 = Struct(">xBII")
FIELDS_16 = Struct(">xBQI")


def transfer_6(op: Op) -> Planner:
    """READ (6) or WRITE (6)."""

    def plan(cdb: bytes, unit: Unit) -> Plan:
        lba = int.from_bytes(cdb[1:4], "big") & 0x1FFFFF
        return _transfer(op, 0, lba, cdb[4] or 256, unit)

    return plan


def transfer(op: Op, fields: Struct) -> Planner:
    """READ or WRITE of another size. Made once for each: this is on the path of every I/O."""
    unpack = fields.unpack_from
    writing = op is Op.WRITE

    def plan(cdb: bytes, unit: Unit) -> Plan:
        flags, lba, blocks = unpack(cdb)
        plain = flags == 0 and 0 < blocks <= _TRANSFER_MAX_BLOCKS and lba + blocks <= unit.blocks
        if plain and not (writing and unit.read_only):
            return Transfer(op, lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES)
        return _transfer(op, flags, lba, blocks, unit)

    return plan


def _transfer(op: Op, flags: int, lba: int, blocks: int, unit: Unit) -> Plan:
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if flags & _PROTECT or blocks > _TRANSFER_MAX_BLOCKS:
        return refused(INVALID_FIELD_IN_CDB)
    if op is Op.WRITE and unit.read_only:
        return refused(WRITE_PROTECTED)
    if blocks == 0:
        return good()
    # FUA on a read asks for what is on the medium, with the cache written there first: the newest bytes.
    fua = op is Op.WRITE and flags & _FUA != 0
    return Transfer(op, lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES, fua)


def verify(fields: Struct, cdb: bytes, unit: Unit, content: bytes) -> Plan:
    """BYTCHK=0: the medium can be read, which is tried. BYTCHK=1: it holds what the initiator sent."""
    flags, lba, blocks = fields.unpack_from(cdb)
    compare = flags & _BYTCHK == _BYTCHK_COMPARE
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if flags & _PROTECT or flags & _BYTCHK not in (0, _BYTCHK_COMPARE):
        return refused(INVALID_FIELD_IN_CDB)
    length = blocks * LOGICAL_BLOCK_BYTES
    if length > ZERO_MAX_BYTES or (compare and len(content) != length):
        return refused(INVALID_FIELD_IN_CDB)
    offset = lba * LOGICAL_BLOCK_BYTES
    return Steps(
        [
            Step(
                Op.READ,
                offset + at,
                min(CHUNK_BYTES, length - at),
                content[at : at + CHUNK_BYTES] if compare else b"",
            )
            for at in range(0, length, CHUNK_BYTES)
        ]
    )


def synchronize_cache(fields: Struct, cdb: bytes, unit: Unit) -> Plan:
    """Everything is written, whatever the range; IMMED is answered when it is done, not before."""
    _flags, lba, blocks = fields.unpack_from(cdb)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    return Steps([Step(Op.FLUSH, 0, 0)])


def compare_and_write(cdb: bytes, unit: Unit) -> Plan:
    flags, lba = cdb[1], int.from_bytes(cdb[2:10], "big")
    blocks = cdb[13]
    if flags & _PROTECT or blocks * LOGICAL_BLOCK_BYTES > COMPARE_MAX_BYTES:
        return refused(INVALID_FIELD_IN_CDB)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if unit.read_only:
        return refused(WRITE_PROTECTED)
    # Zero blocks are nothing to do, but only if no data came with them: the executor looks.
    offset, length = lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES
    return Transfer(Op.COMPARE_AND_WRITE, offset, length, flags & _FUA != 0)
