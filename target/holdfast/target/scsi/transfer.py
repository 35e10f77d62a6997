"""Commands that move, check or settle the medium's bytes (SBC-3 5.9 to 5.36)."""

from collections.abc import Callable
from struct import Struct

from holdfast.base.device import Op
from holdfast.base.limits import MIB
from holdfast.target.scsi.plan import Plan, Step, Steps, Transfer, good, refused
from holdfast.target.scsi.status import (
    CONDITION_MET,
    GOOD,
    LBA_OUT_OF_RANGE,
    WRITE_PROTECTED,
    WRONG_LENGTH,
    bad_field,
)
from holdfast.target.scsi.unit import (
    COMPARE_MAX_BYTES,
    LOGICAL_BLOCK_BYTES,
    PREFETCH_MAX_BYTES,
    TRANSFER_MAX_BYTES,
    ZERO_MAX_BYTES,
    Unit,
)

CHUNK_BYTES = MIB
TRANSFER_MAX_BLOCKS = TRANSFER_MAX_BYTES // LOGICAL_BLOCK_BYTES
_PROTECT, PROTECT_BIT = 0xE0, 7
_FUA = 0x08
_BYTCHK, _BYTCHK_BIT = 0x06, 2
_COMPARE, _COMPARE_EACH = 0x02, 0x06
_NACA, _NACA_BIT = 0x04, 2
COMPARED_BLOCKS_AT = 13

Planner = Callable[[bytes, Unit], Plan]

# Flags, LBA, number of blocks and control byte, by the size of the CDB.
FIELDS_10 = Struct(">xBIxHB")
FIELDS_12 = Struct(">xBIIxB")
FIELDS_16 = Struct(">xBQIxB")
_BLOCKS_AT = {FIELDS_10: 7, FIELDS_12: 6, FIELDS_16: 10}


def refuse_control(cdb: bytes, control_at: int) -> Plan | None:
    """NACA: NORMACA is 0, so there is no auto contingent allegiance to be had (SAM-5 5.2)."""
    return refused(bad_field(control_at, _NACA_BIT)) if cdb[control_at] & _NACA else None


def transfer_6(op: Op) -> Planner:
    """READ (6) or WRITE (6)."""

    def plan(cdb: bytes, unit: Unit) -> Plan:
        lba = int.from_bytes(cdb[1:4], "big") & 0x1FFFFF
        return refuse_control(cdb, 5) or _transfer(op, 0, lba, cdb[4] or 256, unit, 4)

    return plan


def transfer(op: Op, fields: Struct) -> Planner:
    """READ or WRITE of another size. Made once for each: this is on the path of every I/O."""
    unpack = fields.unpack_from
    blocks_at, control_at = _BLOCKS_AT[fields], fields.size - 1
    writing = op is Op.WRITE

    def plan(cdb: bytes, unit: Unit) -> Plan:
        flags, lba, blocks, control = unpack(cdb)
        plain = not (flags or control) and 0 < blocks <= TRANSFER_MAX_BLOCKS and lba + blocks <= unit.blocks
        if plain and not (writing and unit.read_only):
            return Transfer(op, lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES)
        return refuse_control(cdb, control_at) or _transfer(op, flags, lba, blocks, unit, blocks_at)

    return plan


def _transfer(op: Op, flags: int, lba: int, blocks: int, unit: Unit, blocks_at: int) -> Plan:
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if flags & _PROTECT:
        return refused(bad_field(1, PROTECT_BIT))
    if blocks > TRANSFER_MAX_BLOCKS:
        return refused(bad_field(blocks_at))
    if op is Op.WRITE and unit.read_only:
        return refused(WRITE_PROTECTED)
    if blocks == 0:
        return good()
    # FUA on a read asks for what is on the medium, with the cache written there first: the newest bytes.
    fua = op is Op.WRITE and flags & _FUA != 0
    return Transfer(op, lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES, fua)


def verify(fields: Struct, cdb: bytes, unit: Unit, content: bytes) -> Plan:
    """BYTCHK=00b: the medium can be read, which is tried. 01b: it holds what the initiator sent; 11b: each
    of its blocks holds the one block that the initiator sent.
    """
    flags, lba, blocks, _control = fields.unpack_from(cdb)
    check = flags & _BYTCHK
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if flags & _PROTECT:
        return refused(bad_field(1, PROTECT_BIT))
    if check not in (0, _COMPARE, _COMPARE_EACH):
        return refused(bad_field(1, _BYTCHK_BIT))
    length = blocks * LOGICAL_BLOCK_BYTES
    if length > (TRANSFER_MAX_BYTES if check == _COMPARE else ZERO_MAX_BYTES):
        return refused(bad_field(_BLOCKS_AT[fields]))
    if not blocks:
        return good()
    if len(content) != {0: 0, _COMPARE: length, _COMPARE_EACH: LOGICAL_BLOCK_BYTES}[check]:
        return refused(WRONG_LENGTH)
    if check == _COMPARE_EACH:
        same = content * (min(CHUNK_BYTES, length) // LOGICAL_BLOCK_BYTES)
        return Steps([_reading(lba, at, length, same) for at in range(0, length, CHUNK_BYTES)])
    return Steps(_compared(lba, length, content))


def _compared(lba: int, length: int, content: bytes) -> list[Step]:
    return [_reading(lba, at, length, content[at : at + CHUNK_BYTES]) for at in range(0, length, CHUNK_BYTES)]


def _reading(lba: int, at: int, length: int, wanted: bytes = b"") -> Step:
    """A chunk of [0, length) behind `lba`, which must hold `wanted`, if there is any."""
    count = min(CHUNK_BYTES, length - at)
    return Step(Op.READ, lba * LOGICAL_BLOCK_BYTES + at, count, wanted[:count])


def write_and_verify(fields: Struct, cdb: bytes, unit: Unit, content: bytes) -> Plan:
    """On the medium of every host that is in sync, and then read; BYTCHK=01b: and compared."""
    flags, lba, blocks, _control = fields.unpack_from(cdb)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if flags & _PROTECT:
        return refused(bad_field(1, PROTECT_BIT))
    if flags & _BYTCHK not in (0, _COMPARE):
        return refused(bad_field(1, _BYTCHK_BIT))
    if blocks > TRANSFER_MAX_BLOCKS:
        return refused(bad_field(_BLOCKS_AT[fields]))
    if unit.read_only:
        return refused(WRITE_PROTECTED)
    if not blocks:
        return good()
    length, offset = blocks * LOGICAL_BLOCK_BYTES, lba * LOGICAL_BLOCK_BYTES
    if len(content) != length:
        return refused(WRONG_LENGTH)
    write = Step(Op.WRITE, offset, length, content, fua=True)
    return Steps([write, *_compared(lba, length, content if flags & _BYTCHK else b"")])


def prefetch(fields: Struct, cdb: bytes, unit: Unit) -> Plan:
    """The blocks are read, which leaves them in memory. IMMED is answered when that is done, not before."""
    _flags, lba, blocks, _control = fields.unpack_from(cdb)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if blocks * LOGICAL_BLOCK_BYTES > PREFETCH_MAX_BYTES:
        return refused(bad_field(_BLOCKS_AT[fields]))
    # No number means to the end, of which as much is read as one command may: GOOD then, not CONDITION MET.
    wanted = (blocks or unit.blocks - lba) * LOGICAL_BLOCK_BYTES
    length = min(wanted, PREFETCH_MAX_BYTES)
    status = CONDITION_MET if length == wanted else GOOD
    return Steps([_reading(lba, at, length) for at in range(0, length, CHUNK_BYTES)], status)


def synchronize_cache(fields: Struct, cdb: bytes, unit: Unit) -> Plan:
    """Everything is written, whatever the range; IMMED is answered when it is done, not before."""
    _flags, lba, blocks, _control = fields.unpack_from(cdb)
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    return Steps([Step(Op.FLUSH, 0, 0)])


def compare_and_write(cdb: bytes, unit: Unit) -> Plan:
    flags, lba = cdb[1], int.from_bytes(cdb[2:10], "big")
    blocks = cdb[COMPARED_BLOCKS_AT]
    if flags & _PROTECT:
        return refused(bad_field(1, PROTECT_BIT))
    if blocks * LOGICAL_BLOCK_BYTES > COMPARE_MAX_BYTES:
        return refused(bad_field(COMPARED_BLOCKS_AT))
    if lba + blocks > unit.blocks:
        return refused(LBA_OUT_OF_RANGE)
    if unit.read_only:
        return refused(WRITE_PROTECTED)
    # Zero blocks are nothing to do, but only if no data came with them: the executor looks.
    offset, length = lba * LOGICAL_BLOCK_BYTES, blocks * LOGICAL_BLOCK_BYTES
    return Transfer(Op.COMPARE_AND_WRITE, offset, length, flags & _FUA != 0)
