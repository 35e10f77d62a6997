"""UNMAP and WRITE SAME (SBC-3 5.28, 5.42, 5.43): ranges that become zeros or a repeated block.

What is named is zeroed exactly, to the block: LBPRZ=1 promises zeros for unmapped blocks, and giving back
only whole granules of space is the device's own business. A command is checked in full before it begins.
"""

from struct import Struct

from holdfast.base.device import Op
from holdfast.base.limits import MIB
from holdfast.target.scsi.plan import Plan, Step, Steps, good, refused
from holdfast.target.scsi.status import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETERS,
    LBA_OUT_OF_RANGE,
    PARAMETER_LIST_LENGTH_ERROR,
    WRITE_PROTECTED,
)
from holdfast.target.scsi.transfer import CHUNK_BYTES
from holdfast.target.scsi.unit import (
    LOGICAL_BLOCK_BYTES,
    UNMAP_MAX_DESCRIPTORS,
    ZERO_MAX_BYTES,
    Unit,
)

ZERO_CHUNK_BYTES = 32 * MIB
_ZERO_MAX_BLOCKS = ZERO_MAX_BYTES // LOGICAL_BLOCK_BYTES
_UNMAP_ANCHOR = 0x01
_UNMAP_HEADER_BYTES = 8
_UNMAP_DESCRIPTOR = Struct(">QI4x")
_WRITE_SAME_REFUSED = 0xE0 | 0x10 | 0x06
"""WRPROTECT, ANCHOR, and the obsolete PBDATA and LBDATA."""
_NDOB = 0x01


def unmap(cdb: bytes, unit: Unit, parameters: bytes) -> Plan:
    if cdb[1] & _UNMAP_ANCHOR:
        return refused(INVALID_FIELD_IN_CDB)
    parameters = parameters[: int.from_bytes(cdb[7:9], "big")]
    if not parameters:
        return good()
    wanted = int.from_bytes(parameters[2:4], "big")
    if len(parameters) < _UNMAP_HEADER_BYTES + wanted:
        return refused(PARAMETER_LIST_LENGTH_ERROR)
    count = wanted // _UNMAP_DESCRIPTOR.size
    if count > UNMAP_MAX_DESCRIPTORS:
        return refused(INVALID_FIELD_IN_PARAMETERS)
    end = _UNMAP_HEADER_BYTES + count * _UNMAP_DESCRIPTOR.size
    ranges = list(_UNMAP_DESCRIPTOR.iter_unpack(parameters[_UNMAP_HEADER_BYTES:end]))
    if any(lba + blocks > unit.blocks for lba, blocks in ranges):
        return refused(LBA_OUT_OF_RANGE)
    if sum(blocks for _lba, blocks in ranges) > _ZERO_MAX_BLOCKS:
        return refused(INVALID_FIELD_IN_PARAMETERS)
    if unit.read_only:
        return refused(WRITE_PROTECTED)
    return Steps([step for lba, blocks in ranges for step in _zeros(lba, blocks)])


def write_same(fields: Struct, may_ndob: bool, cdb: bytes, unit: Unit, block: bytes) -> Plan:
    """WSNZ=1: a number of blocks of zero, "to the end", is refused, so that every command is bounded."""
    flags, lba, blocks = fields.unpack_from(cdb)
    no_data = may_ndob and flags & _NDOB != 0
    if flags & _WRITE_SAME_REFUSED or not 0 < blocks <= _ZERO_MAX_BLOCKS:
        return refused(INVALID_FIELD_IN_CDB)
    if not no_data and len(block) != LOGICAL_BLOCK_BYTES:
        return refused(INVALID_FIELD_IN_CDB)
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
