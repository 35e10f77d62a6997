"""Commands about the unit's state: readiness, sense, capacity, paths (SPC-4 6.37, 6.39, 6.47; SBC-3 5.15)."""

from holdfast.target.scsi.plan import Plan, good, refused
from holdfast.target.scsi.status import NO_SENSE, UNIT_ATTENTION, bad_field, sense
from holdfast.target.scsi.unit import BLOCKS_PER_PHYSICAL_EXPONENT, LOGICAL_BLOCK_BYTES, Unit

_LBPME_LBPRZ = 0xC0
_DESC = 0x01
_START = 0x01
_LOEJ = 0x02
_EXTENDED_FORMAT = 0x20
_STATES_SUPPORTED = 0x0F
"""Active/optimized, active/non-optimized, standby, unavailable."""
_CHANGED_IMPLICITLY = 2


def test_unit_ready(_cdb: bytes, _unit: Unit) -> Plan:
    return good()


def request_sense(cdb: bytes, unit: Unit) -> Plan:
    if cdb[1] & _DESC:
        return refused(bad_field(1, 0))
    attention = unit.attentions.take()
    data = sense(NO_SENSE, 0, 0) if attention is None else sense(UNIT_ATTENTION, *attention)
    return good(data[: cdb[4]])


def start_stop_unit(cdb: bytes, _unit: Unit) -> Plan:
    """Always started: stopping, ejecting and power conditions are refused."""
    for wrong, bit in ((cdb[4] & 0xF0, 7), (cdb[4] & _LOEJ, 1), (not cdb[4] & _START, 0)):
        if wrong:
            return refused(bad_field(4, bit))
    return good()


def read_capacity_10(_cdb: bytes, unit: Unit) -> Plan:
    last = min(unit.blocks - 1, 0xFFFFFFFF)
    return good(last.to_bytes(4, "big") + LOGICAL_BLOCK_BYTES.to_bytes(4, "big"))


def read_capacity_16(cdb: bytes, unit: Unit) -> Plan:
    data = (unit.blocks - 1).to_bytes(8, "big") + LOGICAL_BLOCK_BYTES.to_bytes(4, "big")
    data += bytes([0, BLOCKS_PER_PHYSICAL_EXPONENT, _LBPME_LBPRZ, 0])
    return good(data.ljust(32, b"\0")[: int.from_bytes(cdb[10:14], "big")])


def report_target_port_groups(cdb: bytes, unit: Unit) -> Plan:
    groups = b"".join(
        bytes([group.state, _STATES_SUPPORTED])
        + group.group.to_bytes(2, "big")
        + bytes([0, _CHANGED_IMPLICITLY, 0, 1])
        + group.relative_port.to_bytes(4, "big")
        for group in unit.groups
    )
    if cdb[1] & 0xE0 == _EXTENDED_FORMAT:
        groups = bytes([0x10, 0, 0, 0]) + groups
    elif cdb[1] & 0xE0:
        return refused(bad_field(1, 7))
    data = len(groups).to_bytes(4, "big") + groups
    return good(data[: int.from_bytes(cdb[6:10], "big")])
