"""Commands that move, check or settle the medium's bytes (SBC-3 5.9 to 5.36)."""

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

# Flags, LBA and number of blocks, by the size of the CDB.
FIELDS_10 = Struct(">xBIxH")
FIELDS_12 = Struct(">xBII")
FIELDS_16 = Struct(">xBQI")


def transfer_6(op: Op, cdb: bytes, unit: Unit) -> Plan:
    lba = int.from_bytes(cdb[1:4], "big") & 0x1FFFFF
    return _transfer(op, 0, lba, cdb[4] or 256, unit)


def transfer(op: Op, fields: Struct, cdb: bytes, unit: Unit) -> Plan:
    flags, lba, blocks = fields.unpack_from(cdb)
    return _transfer(op, flags, lba, blocks, unit)


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
    return Transfer(op, lba * 512, blocks * 512, op is Op.WRITE and flags & _FUA != 0)


def verify(fields: Struct, cdb: bytes, unit: Unit) -> Plan:
    """BYTCHK=0 only: that the medium can be read. It is read."""
    flags, lba, blocks = fields.unpack_from(cdb)
    if flags & (_PROTECT | _BYTCHK) or blocks * LOGICAL_BLOCK_BYTES > ZERO_MAX_BYTES:
        return refused(INVALID_FIELD_IN_CDB)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    offset, end = lba * LOGICAL_BLOCK_BYTES, (lba + blocks) * LOGICAL_BLOCK_BYTES
    return Steps([Step(Op.READ, at, min(CHUNK_BYTES, end - at)) for at in range(offset, end, CHUNK_BYTES)])


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
    if blocks == 0:
        return good()
    offset, length = lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES
    return Transfer(Op.COMPARE_AND_WRITE, offset, length, flags & _FUA != 0)
