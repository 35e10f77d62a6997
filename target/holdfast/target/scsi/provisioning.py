"""UNMAP, WRITE SAME and GET LBA STATUS (SBC-3 5.28, 5.42, 5.43, 5.5): what becomes zeros, or holds data.

What is named is zeroed exactly, to the block: LBPRZ=1 promises zeros for unmapped blocks, and giving back
only whole granules of space is the device's own business. A command is checked in full before it begins.
"""

from functools import partial
from struct import Struct

from holdfast.base.device import Op, Runs
from holdfast.base.limits import MIB
from holdfast.target.scsi.plan import Look, Plan, Step, Steps, good, refused
from holdfast.target.scsi.status import (
    LBA_OUT_OF_RANGE,
    PARAMETER_LIST_LENGTH_ERROR,
    WRITE_PROTECTED,
    WRONG_LENGTH,
    bad_field,
    bad_parameter,
)
from holdfast.target.scsi.transfer import CHUNK_BYTES, FIELDS_10, PROTECT_BIT
from holdfast.target.scsi.unit import (
    LOGICAL_BLOCK_BYTES,
    LOOK_MAX_BYTES,
    UNMAP_MAX_DESCRIPTORS,
    WRITE_SAME_MAX_BYTES,
    ZERO_MAX_BYTES,
    Unit,
)

ZERO_CHUNK_BYTES = 32 * MIB
_ZERO_MAX_BLOCKS = ZERO_MAX_BYTES // LOGICAL_BLOCK_BYTES
_UNMAP_ANCHOR = 0x01
_UNMAP_HEADER_BYTES = 8
_UNMAP_DESCRIPTOR = Struct(">QI4x")
_WRITE_SAME_MAX_BLOCKS = WRITE_SAME_MAX_BYTES // LOGICAL_BLOCK_BYTES
_WRITE_SAME_REFUSED = ((0xE0, PROTECT_BIT), (0x10, 4), (0x04, 2), (0x02, 1))
"""WRPROTECT, ANCHOR, and the obsolete PBDATA and LBDATA."""
_STATUS_HEADER_BYTES = 8
_STATUS = Struct(">QIB3x")
_MAPPED, _DEALLOCATED = 0, 1
_NDOB = 0x01


def unmap(cdb: bytes, unit: Unit, parameters: bytes) -> Plan:
    if cdb[1] & _UNMAP_ANCHOR:
        return refused(bad_field(1, 0))
    parameters = parameters[: int.from_bytes(cdb[7:9], "big")]
    if not parameters:
        return good()
    wanted = int.from_bytes(parameters[2:4], "big")
    if len(parameters) < _UNMAP_HEADER_BYTES + wanted:
        return refused(PARAMETER_LIST_LENGTH_ERROR)
    count = wanted // _UNMAP_DESCRIPTOR.size
    if count > UNMAP_MAX_DESCRIPTORS:
        return refused(bad_parameter(2))
    end = _UNMAP_HEADER_BYTES + count * _UNMAP_DESCRIPTOR.size
    ranges = list(_UNMAP_DESCRIPTOR.iter_unpack(parameters[_UNMAP_HEADER_BYTES:end]))
    if any(lba + blocks > unit.blocks for lba, blocks in ranges):
        return refused(LBA_OUT_OF_RANGE)
    if sum(blocks for _lba, blocks in ranges) > _ZERO_MAX_BLOCKS:
        return refused(bad_parameter(_UNMAP_HEADER_BYTES + 8))
    if unit.read_only:
        return refused(WRITE_PROTECTED)
    return Steps([step for lba, blocks in ranges for step in _zeros(lba, blocks)])


def write_same(fields: Struct, may_ndob: bool, cdb: bytes, unit: Unit, block: bytes) -> Plan:
    """WSNZ=1: a number of blocks of zero, "to the end", is refused, so that every command is bounded."""
    flags, lba, blocks, _control = fields.unpack_from(cdb)
    no_data = may_ndob and flags & _NDOB != 0
    for wrong, bit in _WRITE_SAME_REFUSED:
        if flags & wrong:
            return refused(bad_field(1, bit))
    if not 0 < blocks <= _WRITE_SAME_MAX_BLOCKS:
        return refused(bad_field(7 if fields is FIELDS_10 else 10))
    if len(block) != (0 if no_data else LOGICAL_BLOCK_BYTES):
        return refused(WRONG_LENGTH)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if unit.read_only:
        return refused(WRITE_PROTECTED)
    # With UNMAP=1 a block that would not read back as written must be written (SBC-3 4.7.3.4.3).
    if no_data or not any(block):
        return Steps(_zeros(lba, blocks))
    offset, end = lba * LOGICAL_BLOCK_BYTES, (lba + blocks) * LOGICAL_BLOCK_BYTES
    content = block * (min(CHUNK_BYTES, end - offset) // LOGICAL_BLOCK_BYTES)
    return Steps(
        [Step(Op.WRITE, at, min(CHUNK_BYTES, end - at), content) for at in range(offset, end, CHUNK_BYTES)]
    )


def _zeros(lba: int, blocks: int) -> list[Step]:
    offset, end = lba * LOGICAL_BLOCK_BYTES, (lba + blocks) * LOGICAL_BLOCK_BYTES
    return [Step(Op.ZERO, at, min(ZERO_CHUNK_BYTES, end - at)) for at in range(offset, end, ZERO_CHUNK_BYTES)]


def get_lba_status(cdb: bytes, unit: Unit) -> Plan:
    """SBC-3 5.5: where data is, and where nothing is stored. As far as one look goes; initiators go on."""
    lba, allocated = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
    if lba >= unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    length = min(LOOK_MAX_BYTES, (unit.blocks - lba) * LOGICAL_BLOCK_BYTES)
    return Look(lba * LOGICAL_BLOCK_BYTES, length, partial(_statuses, lba, allocated))


def _statuses(lba: int, allocated: int, runs: Runs) -> bytes:
    listed = b""
    for length, has_data in runs:
        blocks = length // LOGICAL_BLOCK_BYTES
        listed += _STATUS.pack(lba, blocks, _MAPPED if has_data else _DEALLOCATED)
        lba += blocks
    return ((len(listed) + 4).to_bytes(4, "big") + bytes(4) + listed)[:allocated]
