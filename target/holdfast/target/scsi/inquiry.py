"""INQUIRY: standard data and vital product data pages (SPC-4 6.4 and 7.8, SBC-3 6.6)."""

from collections.abc import Callable

from holdfast.target.scsi.plan import Plan, good, refused
from holdfast.target.scsi.status import bad_field
from holdfast.target.scsi.unit import (
    COMPARE_MAX_BYTES,
    LOGICAL_BLOCK_BYTES,
    PREFETCH_MAX_BYTES,
    TRANSFER_MAX_BYTES,
    TRANSFER_OPTIMAL_BYTES,
    UNMAP_GRANULARITY_BLOCKS,
    UNMAP_MAX_DESCRIPTORS,
    WRITE_SAME_MAX_BYTES,
    ZERO_MAX_BYTES,
    Unit,
)

VENDOR = b"HOLDFAST"
PRODUCT = b"VOLUME          "
REVISION = b"0001"
_EVPD = 0x01
_TPGS_IMPLICIT = 0x10
_VERSION_DESCRIPTORS = (0x00A0, 0x0960, 0x0460, 0x04C0)
"""SAM-5, iSCSI, SPC-4, SBC-3."""

_BINARY, _ASCII = 1, 2
_OF_UNIT, _OF_PORT = 0x00, 0x10
_ISCSI = 0x50
_PIV = 0x80
"""Designators of ports name their protocol (SPC-4 7.8.6.1)."""


def inquiry(cdb: bytes, unit: Unit) -> Plan:
    allocated = int.from_bytes(cdb[3:5], "big")
    if cdb[1] & _EVPD:
        make = PAGES.get(cdb[2])
        if make is None:
            return refused(bad_field(2))
        body = make(unit)
        return good((bytes([0, cdb[2]]) + len(body).to_bytes(2, "big") + body)[:allocated])
    if cdb[2]:
        return refused(bad_field(2))
    return good(_standard()[:allocated])


def _standard() -> bytes:
    # Disk; not removable; SPC-4; HISUP and response format 2; MULTIP; CMDQUE.
    head = bytes([0, 0, 0x06, 0x12, 96 - 5, _TPGS_IMPLICIT, 0x10, 0x02])
    names = VENDOR + PRODUCT + REVISION
    versions = b"".join(number.to_bytes(2, "big") for number in _VERSION_DESCRIPTORS)
    return (head + names).ljust(58, b"\0") + versions.ljust(38, b"\0")


def _supported(_unit: Unit) -> bytes:
    return bytes(sorted(PAGES))


def _serial(unit: Unit) -> bytes:
    return unit.serial


def _identification(unit: Unit) -> bytes:
    here = unit.groups[unit.here]
    return b"".join(
        [
            _designator(_BINARY, _OF_UNIT | 3, unit.naa),
            _designator(_ASCII, _OF_UNIT | 1, VENDOR + unit.serial),
            _designator(_ISCSI | _BINARY, _PIV | _OF_PORT | 4, here.relative_port.to_bytes(4, "big")),
            _designator(_ISCSI | _BINARY, _PIV | _OF_PORT | 5, here.group.to_bytes(4, "big")),
        ]
    )


def _designator(protocol_and_code_set: int, kind: int, name: bytes) -> bytes:
    return bytes([protocol_and_code_set, kind, 0, len(name)]) + name


def _extended(unit: Unit) -> bytes:
    # SIMPSUP, HEADSUP and ORDSUP are what LIO's queueing gives; V_SUP says that there is a cache.
    return (bytes([0, 0x07, 0x01 if unit.write_cache else 0])).ljust(60, b"\0")


def _block_limits(_unit: Unit) -> bytes:
    return b"".join(
        [
            bytes([0x01, COMPARE_MAX_BYTES // LOGICAL_BLOCK_BYTES]),  # WSNZ
            UNMAP_GRANULARITY_BLOCKS.to_bytes(2, "big"),  # optimal transfer length granularity
            (TRANSFER_MAX_BYTES // LOGICAL_BLOCK_BYTES).to_bytes(4, "big"),
            (TRANSFER_OPTIMAL_BYTES // LOGICAL_BLOCK_BYTES).to_bytes(4, "big"),
            (PREFETCH_MAX_BYTES // LOGICAL_BLOCK_BYTES).to_bytes(4, "big"),
            (ZERO_MAX_BYTES // LOGICAL_BLOCK_BYTES).to_bytes(4, "big"),
            UNMAP_MAX_DESCRIPTORS.to_bytes(4, "big"),
            UNMAP_GRANULARITY_BLOCKS.to_bytes(4, "big"),
            0x80000000.to_bytes(4, "big"),  # aligned at 0, and that is valid (UGAVALID)
            (WRITE_SAME_MAX_BYTES // LOGICAL_BLOCK_BYTES).to_bytes(8, "big"),
        ]
    ).ljust(60, b"\0")


def _characteristics(_unit: Unit) -> bytes:
    return bytes([0, 1]).ljust(60, b"\0")  # does not rotate


def _provisioning(_unit: Unit) -> bytes:
    # LBPU, LBPWS, LBPWS10, LBPRZ=001b; thin.
    return bytes([0, 0x80 | 0x40 | 0x20 | 0x04, 2, 0])


PAGES: dict[int, Callable[[Unit], bytes]] = {
    0x00: _supported,
    0x80: _serial,
    0x83: _identification,
    0x86: _extended,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}
