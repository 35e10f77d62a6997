"""The command set: one table, from which CDBs are decoded and REPORT SUPPORTED OPERATION CODES answers.

What the kernel answers itself never arrives here: REPORT LUNS, reservations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from holdfast.base.device import Op
from holdfast.target.scsi import inquiry, mode, provisioning, state, transfer
from holdfast.target.scsi.plan import Answer, Plan, Steps, good, refused
from holdfast.target.scsi.status import (
    INVALID_OPCODE,
    UNIT_ATTENTION,
    WRONG_LENGTH,
    bad_field,
    sense,
)
from holdfast.target.scsi.unit import PARAMETERS_MAX_BYTES, Unit


class Plain(Protocol):
    def __call__(self, cdb: bytes, unit: Unit, /) -> Plan: ...


class WithParameters(Protocol):
    def __call__(self, cdb: bytes, unit: Unit, parameters: bytes, /) -> Plan: ...


@dataclass(frozen=True)
class Entry:
    """One command. `usage` is its CDB usage map (SPC-4 6.35.3): which bits are looked at."""

    opcode: int
    usage: str
    plan: Plain | None = None
    plan_with_parameters: WithParameters | None = None
    service_action: int | None = None
    despite_attention: bool = False
    """Done although a unit attention waits (SAM-5 5.14)."""
    any_path: bool = False
    """Done on a standby or unavailable path too: what LIO's core_alua_state_standby lets pass, and with it
    REPORT SUPPORTED OPERATION CODES and MODE SENSE (10). Linux asks those when a path is found, and would
    take a path that refuses for a disk without WRITE SAME. On an unavailable path LIO lets less pass; READ
    CAPACITY must, or Linux makes a disk of no size of a path that is found while its host is being brought
    up to date, and never looks again.
    """


_10, _12, _16 = transfer.FIELDS_10, transfer.FIELDS_12, transfer.FIELDS_16
_READ, _WRITE = Op.READ, Op.WRITE


_RCTD = 0x80
_NO_TIMEOUTS = bytes([0, 10]) + bytes(10)
"""A command timeouts descriptor that names none (SPC-4 6.35.4)."""


def _report_supported(cdb: bytes, unit: Unit) -> Plan:
    """SPC-4 6.35: all commands, or one."""
    entries = (*ENTRIES, *OF_THE_KERNEL) if unit.reservable else ENTRIES
    options, opcode = cdb[2] & 0x07, cdb[3]
    allocated = int.from_bytes(cdb[6:10], "big")
    timeouts = _NO_TIMEOUTS if cdb[2] & _RCTD else b""
    if options == 0:
        listed = b"".join(_descriptor(entry, timeouts) for entry in entries)
        return good((len(listed).to_bytes(4, "big") + listed)[:allocated])
    has_actions = any(e.opcode == opcode and e.service_action is not None for e in entries)
    if options > 3:
        return refused(bad_field(2, 2))
    if (options == 1 and has_actions) or (options == 2 and not has_actions):
        return refused(bad_field(3))
    wanted = int.from_bytes(cdb[4:6], "big") if has_actions else None
    found = next((e for e in entries if e.opcode == opcode and e.service_action == wanted), None)
    if found is None:
        return good(bytes([0, 1, 0, 0])[:allocated])  # not supported
    usage = bytes.fromhex(found.usage)
    head = bytes([0, 3 | (0x80 if timeouts else 0)]) + len(usage).to_bytes(2, "big")
    return good((head + usage + timeouts)[:allocated])


def _descriptor(entry: Entry, timeouts: bytes) -> bytes:
    flags = (0 if entry.service_action is None else 1) | (2 if timeouts else 0)
    action = (entry.service_action or 0).to_bytes(2, "big")
    return bytes([entry.opcode, 0, *action, 0, flags]) + (len(entry.usage) // 2).to_bytes(2, "big") + timeouts


ENTRIES = (
    Entry(0x00, "000000000004", state.test_unit_ready),
    Entry(0x03, "03010000ff04", state.request_sense, despite_attention=True, any_path=True),
    Entry(0x08, "081fffffff04", transfer.transfer_6(_READ)),
    Entry(0x0A, "0a1fffffff04", transfer.transfer_6(_WRITE)),
    Entry(0x12, "1201ffffff04", inquiry.inquiry, despite_attention=True, any_path=True),
    Entry(0x15, "15110000ff04", None, mode.mode_select_6, any_path=True),
    Entry(0x1A, "1a08ffffff04", mode.mode_sense_6, any_path=True),
    Entry(0x1B, "1b010000f304", state.start_stop_unit),
    Entry(0x25, "25000000000000000004", state.read_capacity_10, any_path=True),
    Entry(0x28, "28f8ffffffff00ffff04", transfer.transfer(_READ, _10)),
    Entry(0x2A, "2af8ffffffff00ffff04", transfer.transfer(_WRITE, _10)),
    Entry(0x2E, "2ef6ffffffff00ffff04", None, partial(transfer.write_and_verify, _10)),
    Entry(0x2F, "2ff6ffffffff00ffff04", None, partial(transfer.verify, _10)),
    Entry(0x34, "3402ffffffff00ffff04", partial(transfer.prefetch, _10)),
    Entry(0x35, "3506ffffffff00ffff04", partial(transfer.synchronize_cache, _10)),
    Entry(0x41, "41fcffffffff00ffff04", None, partial(provisioning.write_same, _10, False)),
    Entry(0x42, "42010000000000ffff04", None, provisioning.unmap),
    Entry(0x55, "55110000000000ffff04", None, mode.mode_select_10, any_path=True),
    Entry(0x5A, "5a18ffff000000ffff04", mode.mode_sense_10, any_path=True),
    Entry(0x88, "88f8ffffffffffffffffffffffff0004", transfer.transfer(_READ, _16)),
    Entry(0x89, "89f8ffffffffffffffff000000ff0004", transfer.compare_and_write),
    Entry(0x8A, "8af8ffffffffffffffffffffffff0004", transfer.transfer(_WRITE, _16)),
    Entry(0x8E, "8ef6ffffffffffffffffffffffff0004", None, partial(transfer.write_and_verify, _16)),
    Entry(0x8F, "8ff6ffffffffffffffffffffffff0004", None, partial(transfer.verify, _16)),
    Entry(0x90, "9002ffffffffffffffffffffffff0004", partial(transfer.prefetch, _16)),
    Entry(0x91, "9106ffffffffffffffffffffffff0004", partial(transfer.synchronize_cache, _16)),
    Entry(0x93, "93f9ffffffffffffffffffffffff0004", None, partial(provisioning.write_same, _16, True)),
    Entry(0x9E, "9e100000000000000000ffffffff0004", state.read_capacity_16, None, 0x10, any_path=True),
    Entry(0x9E, "9e12ffffffffffffffffffffffff0004", provisioning.get_lba_status, None, 0x12),
    Entry(0xA3, "a3ea00000000ffffffff0004", state.report_target_port_groups, None, 0x0A, any_path=True),
    Entry(0xA3, "a30c87ffffffffffffff0004", _report_supported, None, 0x0C, any_path=True),
    Entry(0xA8, "a8f8ffffffffffffffff0004", transfer.transfer(_READ, _12)),
    Entry(0xAA, "aaf8ffffffffffffffff0004", transfer.transfer(_WRITE, _12)),
    Entry(0xAE, "aef6ffffffffffffffff0004", None, partial(transfer.write_and_verify, _12)),
    Entry(0xAF, "aff6ffffffffffffffff0004", None, partial(transfer.verify, _12)),
)


OF_THE_KERNEL = (
    Entry(0x16, "160000000000"),
    Entry(0x17, "170000000000"),
    Entry(0x56, "56000000000000000000"),
    Entry(0x57, "57000000000000000000"),
    *(Entry(0x5E, f"5e{action:02x}0000000000ffff00", service_action=action) for action in range(4)),
    *(Entry(0x5F, f"5f{action:02x}{used}0000ffffffff00", service_action=action)
      for action, used in enumerate(("00", "ff", "ff", "00", "ff", "ff", "00", "00"))),
)  # fmt: skip
"""RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16): the kernel answers them, here they are
only listed. It looks at no control byte.
"""


def _careful(entry: Entry) -> Entry:
    """The command with its control byte looked at. READ and WRITE do that themselves, faster."""
    control_at = len(entry.usage) // 2 - 1
    planned, with_parameters = entry.plan, entry.plan_with_parameters
    if planned is not None:
        plain: Plain = planned
        return replace(
            entry, plan=lambda cdb, unit: transfer.refuse_control(cdb, control_at) or plain(cdb, unit)
        )
    assert with_parameters is not None

    def careful(cdb: bytes, unit: Unit, parameters: bytes) -> Plan:
        return transfer.refuse_control(cdb, control_at) or with_parameters(cdb, unit, parameters)

    return replace(entry, plan_with_parameters=careful)


_BY_OPCODE: list[Entry | None] = [None] * 256
_BY_ACTION: dict[tuple[int, int], Entry] = {}
_TRANSFERS = (0x08, 0x0A, 0x28, 0x2A, 0x88, 0x8A, 0xA8, 0xAA)
for _entry in ENTRIES:
    if _entry.opcode in _TRANSFERS:
        _BY_OPCODE[_entry.opcode] = _entry
        continue
    _entry = _careful(_entry)
    if _entry.service_action is None:
        _BY_OPCODE[_entry.opcode] = _entry
    else:
        _BY_ACTION[_entry.opcode, _entry.service_action] = _entry


def plan(cdb: bytes, unit: Unit, parameters: Callable[[], bytes]) -> Plan:
    """What to do for a command.

    Args:
        cdb: at least as long as its operation code says; more is ignored.
        parameters: fetches the Data-Out Buffer; called only for commands with a parameter list.
    """
    entry = _BY_OPCODE[cdb[0]] or _BY_ACTION.get((cdb[0], cdb[1] & 0x1F))
    if unit.attentions.waiting and not (entry and entry.despite_attention):
        attention = unit.attentions.take()
        assert attention is not None
        return refused(sense(UNIT_ATTENTION, *attention))
    if entry is None:
        return refused(INVALID_OPCODE)
    if entry.plan is not None and not unit.path_sense:
        return entry.plan(cdb, unit)
    wanted = _planned(entry, cdb, unit, parameters)
    return wanted if entry.any_path or not unit.path_sense else _on_another_path(wanted, unit)


def _on_another_path(wanted: Plan, unit: Unit) -> Plan:
    """Only what the device itself refuses, and counts, goes on to it: what reads or changes the medium."""
    if isinstance(wanted, Answer) or (isinstance(wanted, Steps) and not wanted.steps):
        return refused(unit.path_sense)
    return wanted


def _planned(entry: Entry, cdb: bytes, unit: Unit, parameters: Callable[[], bytes]) -> Plan:
    if entry.plan is not None:
        return entry.plan(cdb, unit)
    assert entry.plan_with_parameters is not None
    content = parameters()
    if len(content) > PARAMETERS_MAX_BYTES:
        return refused(WRONG_LENGTH)
    return entry.plan_with_parameters(cdb, unit, content)
