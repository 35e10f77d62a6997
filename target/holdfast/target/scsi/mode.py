"""MODE SENSE and MODE SELECT, 6 and 10 (SPC-4 6.11 to 6.14, 7.5; SBC-3 6.5). Nothing can be changed."""

from holdfast.target.scsi.plan import Plan, good, refused
from holdfast.target.scsi.status import (
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_NOT_SUPPORTED,
    bad_field,
    bad_parameter,
)
from holdfast.target.scsi.unit import LOGICAL_BLOCK_BYTES, Unit

_CHANGEABLE, _SAVED = 1, 3
_ALL_PAGES, _ALL_SUBPAGES = 0x3F, 0xFF
_DBD = 0x08
_LLBAA = 0x10
_PF, _SP = 0x10, 0x01
_DPOFUA, _WP = 0x10, 0x80


def mode_sense_6(cdb: bytes, unit: Unit) -> Plan:
    return _sense(cdb, unit, 4, cdb[4], False)


def mode_sense_10(cdb: bytes, unit: Unit) -> Plan:
    return _sense(cdb, unit, 8, int.from_bytes(cdb[7:9], "big"), cdb[1] & _LLBAA != 0)


def _sense(cdb: bytes, unit: Unit, header_bytes: int, allocated: int, long_lba: bool) -> Plan:
    control, page, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if control == _SAVED:
        return refused(SAVING_NOT_SUPPORTED)
    known = _pages(unit)
    if page != _ALL_PAGES:
        known = {number: body for number, body in known.items() if number == page}
    if not known:
        return refused(bad_field(2, 5))
    if subpage not in (0, _ALL_SUBPAGES):
        return refused(bad_field(3))
    if control == _CHANGEABLE:
        known = {number: bytes(len(body)) for number, body in known.items()}
    pages = b"".join(bytes([number, len(body)]) + body for number, body in sorted(known.items()))
    descriptor = b"" if cdb[1] & _DBD else _descriptor(unit, long_lba)
    specific = _DPOFUA | (_WP if unit.read_only else 0)
    length = header_bytes + len(descriptor) + len(pages)
    if header_bytes == 4:
        header = bytes([length - 1, 0, specific, len(descriptor)])
    else:
        header = (length - 2).to_bytes(2, "big") + bytes([0, specific, int(long_lba), 0])
        header += len(descriptor).to_bytes(2, "big")
    return good((header + descriptor + pages)[:allocated])


def _descriptor(unit: Unit, long_lba: bool) -> bytes:
    if long_lba:
        return unit.blocks.to_bytes(8, "big") + bytes(4) + LOGICAL_BLOCK_BYTES.to_bytes(4, "big")
    return min(unit.blocks, 0xFFFFFFFF).to_bytes(4, "big") + LOGICAL_BLOCK_BYTES.to_bytes(4, "big")


def _pages(unit: Unit) -> dict[int, bytes]:
    caching = bytes([0x04 if unit.write_cache else 0x00]).ljust(18, b"\0")  # WCE
    # GLTSD; unrestricted reordering; SWP; TAS, as LIO does it.
    control = bytes([0x02, 0x10, 0x08 if unit.read_only else 0x00, 0x40]).ljust(10, b"\0")
    exceptions = bytes(10)
    return {0x08: caching, 0x0A: control, 0x1C: exceptions}


def mode_select_6(cdb: bytes, unit: Unit, parameters: bytes) -> Plan:
    return _select(cdb, unit, parameters[: cdb[4]], 4)


def mode_select_10(cdb: bytes, unit: Unit, parameters: bytes) -> Plan:
    return _select(cdb, unit, parameters[: int.from_bytes(cdb[7:9], "big")], 8)


def _select(cdb: bytes, unit: Unit, parameters: bytes, header_bytes: int) -> Plan:
    """What MODE SENSE tells is accepted; anything else is refused, and so is saving."""
    if cdb[1] & _SP or not cdb[1] & _PF:
        return refused(bad_field(1, 0 if cdb[1] & _SP else 4))
    if not parameters:
        return good()
    if len(parameters) < header_bytes:
        return refused(PARAMETER_LIST_LENGTH_ERROR)
    long_lba = header_bytes == 8 and parameters[4] & 1 != 0
    size_at = 3 if header_bytes == 4 else 6
    descriptor_bytes = int.from_bytes(parameters[size_at:header_bytes], "big")
    pages_at = header_bytes + descriptor_bytes
    if pages_at > len(parameters):
        return refused(PARAMETER_LIST_LENGTH_ERROR)
    if descriptor_bytes and parameters[header_bytes:pages_at] != _descriptor(unit, long_lba):
        return refused(bad_parameter(header_bytes))
    return _check_pages(unit, parameters, pages_at)


def _check_pages(unit: Unit, parameters: bytes, at: int) -> Plan:
    known = _pages(unit)
    while at < len(parameters):
        page = parameters[at : at + 2 + parameters[at + 1]] if at + 1 < len(parameters) else b""
        if not page or len(page) < 2 + page[1]:
            return refused(PARAMETER_LIST_LENGTH_ERROR)
        wanted = known.get(page[0])
        if wanted is None or len(wanted) != page[1]:
            return refused(bad_parameter(at if wanted is None else at + 1))
        for number, (one, other) in enumerate(zip(page[2:], wanted, strict=True), at + 2):
            if one != other:
                return refused(bad_parameter(number))
        at += len(page)
    return good()
