"""The command set by its bytes: SPC-4 and SBC-3 field by field, and what is refused."""

import pytest

from holdfast.base import ids
from holdfast.base.device import Op, Outcome
from holdfast.target.control import Desired, DesiredPeer
from holdfast.target.paths import port_groups
from holdfast.target.scsi import commands, provisioning, status
from holdfast.target.scsi.plan import Answer, Look, Plan, Steps, Transfer
from holdfast.target.scsi.unit import ACTIVE_OPTIMIZED, STANDBY, UNAVAILABLE, PortGroup, Unit

UID = "0123456789abcdef01234567"
BLOCKS = 1 << 21  # 1 GiB


def unit(**fields: object) -> Unit:
    return Unit(**{"volume_uid": UID, "size_bytes": BLOCKS * 512, **fields})  # type: ignore[arg-type]


def plan(cdb: str, parameters: bytes = b"", of: Unit | None = None) -> Plan:
    return commands.plan(bytes.fromhex(cdb), of or unit(), lambda: parameters)


def data(cdb: str, parameters: bytes = b"", of: Unit | None = None) -> bytes:
    answer = plan(cdb, parameters, of)
    assert isinstance(answer, Answer) and answer.status == status.GOOD, answer
    return answer.data


def refusal(cdb: str, parameters: bytes = b"", of: Unit | None = None) -> str:
    """key/asc/ascq as people write them."""
    return pointed(cdb, parameters, of)[0]


def pointed(cdb: str, parameters: bytes = b"", of: Unit | None = None) -> tuple[str, str]:
    """key/asc/ascq, and what the sense points at: C or D (CDB or data), byte, and bit."""
    answer = plan(cdb, parameters, of)
    assert isinstance(answer, Answer) and answer.status == status.CHECK_CONDITION, answer
    assert len(answer.sense) == 18 and answer.sense[0] == 0x70 and answer.sense[7] == 10
    said = f"{answer.sense[2]:02x}/{answer.sense[12]:02x}/{answer.sense[13]:02x}"
    flags, at = answer.sense[15], int.from_bytes(answer.sense[16:18], "big")
    if not flags & 0x80:
        return said, ""
    return said, ("C" if flags & 0x40 else "D") + str(at) + (f".{flags & 7}" if flags & 8 else "")


def test_standard_inquiry() -> None:
    got = data("12000000ff00")
    assert len(got) == 96 and got[4] == 91
    assert got[0] == 0 and got[2] == 6 and got[3] & 0x0F == 2
    assert got[5] >> 4 & 3 == 1  # TPGS: implicit ALUA
    assert got[7] & 2  # CMDQUE
    assert got[8:16] == b"HOLDFAST" and got[16:32] == b"VOLUME          " and got[32:36] == b"0001"
    assert got[58:66].hex() == "00a00960046004c0"
    assert data("120000000500") == got[:5]


def test_vital_product_data() -> None:
    assert data("12010000ff00").hex() == "00000007" + "00808386b0b1b2"
    assert data("12018000ff00") == bytes([0, 0x80, 0, 24]) + UID.encode()
    assert data("12018600ff00")[:2] == b"\0\x86" and len(data("12018600ff00")) == 64
    assert data("1201b100ff00")[4:6] == b"\0\1"
    assert data("1201b200ff00").hex() == "00b20004" + "00e40200"


def test_designators() -> None:
    here = unit(groups=(PortGroup(1, 1), PortGroup(2, 2, 2)), here=1)
    page = data("12018300ff00", of=here)
    assert int.from_bytes(page[2:4], "big") == len(page) - 4
    found = []
    rest = page[4:]
    while rest:
        found.append((rest[0], rest[1], rest[4 : 4 + rest[3]]))
        rest = rest[4 + rest[3] :]
    assert found == [
        (0x01, 0x03, bytes.fromhex(ids.naa(UID))),
        (0x02, 0x01, b"HOLDFAST" + UID.encode()),
        (0x51, 0x94, b"\0\0\0\2"),
        (0x51, 0x95, b"\0\0\0\2"),
    ]


def test_block_limits() -> None:
    page = data("1201b000ff00")
    assert len(page) == 64 and page[:4].hex() == "00b0003c"
    number = lambda start, length: int.from_bytes(page[start : start + length], "big")  # noqa: E731
    assert page[4] == 1  # WSNZ
    assert page[5] == 128  # COMPARE AND WRITE
    assert (number(6, 2), number(8, 4), number(12, 4)) == (8, 8192, 2048)
    assert (number(20, 4), number(24, 4), number(28, 4)) == (262144, 256, 8)
    assert (number(16, 4), number(32, 4), number(36, 8)) == (8192, 0x80000000, 32768)


def test_capacity() -> None:
    assert data("25000000000000000000").hex() == "001fffff" + "00000200"
    got = data("9e10" + "00" * 8 + "00000020" + "0000")
    assert got.hex() == "00000000001fffff" + "00000200" + "0003c000" + "00" * 16
    large = unit(size_bytes=3 << 40)
    assert data("25000000000000000000", of=large)[:4] == b"\xff" * 4
    assert data("9e10" + "00" * 8 + "0000000c" + "0000", of=large).hex() == "000000017fffffff00000200"


CACHING = "0812" + "04" + "00" * 17
CONTROL = "0a0a" + "02100040" + "00" * 6
EXCEPTIONS = "1c0a" + "00" * 10


@pytest.mark.parametrize(
    ("cdb", "wanted"),
    [
        ("1a083f00ff00", "2f001000" + CACHING + CONTROL + EXCEPTIONS),
        ("1a000800ff00", "1f001008" + "0020000000000200" + CACHING),
        ("1a080800ff00", "17001000" + CACHING),
        ("1a084800ff00", "17001000" + "0812" + "00" * 18),  # changeable: nothing
        ("1a088800ff00", "17001000" + CACHING),  # default
        ("1a0808ffff00", "17001000" + CACHING),
        ("1a0808000400", "17001000"),
        ("5a080a0000000000ff00", "0012001000000000" + CONTROL),
        ("5a000a0000000000ff00", "001a001000000008" + "0020000000000200" + CONTROL),
        ("5a100a0000000000ff00", "0022001001000010" + "0000000000200000" + "0000000000000200" + CONTROL),
    ],
)
def test_mode_sense(cdb: str, wanted: str) -> None:
    assert data(cdb).hex() == wanted


def test_mode_pages_say_what_is_so() -> None:
    assert data("1a080800ff00", of=unit(write_cache=False))[6] == 0
    read_only = data("1a080a00ff00", of=unit(read_only=True))
    assert read_only[2] & 0x80 and read_only[8] == 0x08


@pytest.mark.parametrize(
    ("cdb", "parameters", "wanted"),
    [
        ("151000001800", "00000000" + CACHING, ""),
        ("151000000000", "", ""),
        ("55100000000000001c00", "0000000000000000" + CACHING, ""),
        ("151000002000", "00000008" + "0020000000000200" + CACHING, ""),
        ("151000001800", "00000000" + CACHING.replace("04", "00"), "05/26/00"),
        ("151000000c00", "00000008" + "0020000000001000", "05/26/00"),
        ("151000000300", "000000", "05/1a/00"),
        ("151000000800", "00000000" + "08120400", "05/1a/00"),
        ("151000000800", "00000010" + "00000000", "05/1a/00"),
        ("151100001800", "00000000" + CACHING, "05/24/00"),  # SP
        ("150000001800", "00000000" + CACHING, "05/24/00"),  # not PF
    ],
)
def test_mode_select(cdb: str, parameters: str, wanted: str) -> None:
    if wanted:
        assert refusal(cdb, bytes.fromhex(parameters)) == wanted
    else:
        assert data(cdb, bytes.fromhex(parameters)) == b""


@pytest.mark.parametrize(
    ("cdb", "op", "lba", "blocks", "fua"),
    [
        ("080000100800", Op.READ, 16, 8, False),
        ("0a0000100000", Op.WRITE, 16, 256, False),
        ("081fffff0100", Op.READ, 0x1FFFFF, 1, False),
        ("28000000001000000800", Op.READ, 16, 8, False),
        ("28180000001000000800", Op.READ, 16, 8, False),  # DPO, FUA: the newest bytes either way
        ("2a000000001000000800", Op.WRITE, 16, 8, False),
        ("2a180000001000000800", Op.WRITE, 16, 8, True),
        ("a800000000100000000800" + "00", Op.READ, 16, 8, False),
        ("aa08000000100000000800" + "00", Op.WRITE, 16, 8, True),
        ("8800" + "0000000000000010" + "00000008" + "0000", Op.READ, 16, 8, False),
        ("8a08" + "0000000000000010" + "00000008" + "0000", Op.WRITE, 16, 8, True),
        ("8908" + "0000000000000010" + "00000002" + "0000", Op.COMPARE_AND_WRITE, 16, 2, True),
    ],
)
def test_transfers(cdb: str, op: Op, lba: int, blocks: int, fua: bool) -> None:
    got = plan(cdb)
    assert isinstance(got, Transfer)
    assert (got.op, got.offset, got.length, got.fua) == (op, lba * 512, blocks * 512, fua)


@pytest.mark.parametrize("cdb", ["28000000001000000000", "8a00" + "00" * 14])
def test_zero_blocks_are_nothing_to_do(cdb: str) -> None:
    assert data(cdb) == b""


BEYOND = "05/21/00"
BAD_FIELD = "05/24/00"
BAD_LENGTH = "05/0e/03"


@pytest.mark.parametrize(
    ("cdb", "wanted"),
    [
        ("28000020000000000100", BEYOND),
        ("280000200000" + "00000000", ""),  # zero blocks at the end: allowed
        ("280000200001" + "00000000", BEYOND),
        ("2a00001fffff00000200", BEYOND),
        ("8800" + "ffffffffffffffff" + "00000001" + "0000", BEYOND),
        ("8900" + "0000000000200000" + "00000001" + "0000", BEYOND),
        ("28200000001000000800", BAD_FIELD),  # RDPROTECT
        ("8800" + "0000000000000000" + "00002001" + "0000", BAD_FIELD),  # more than 4 MiB
        ("8900" + "0000000000000000" + "00000081" + "0000", BAD_FIELD),
        ("2f040000001000000800", BAD_FIELD),  # BYTCHK=10b
        ("2f020000001000000800", BAD_LENGTH),  # BYTCHK=01b, and no data came
        ("2f060000001000000800", BAD_LENGTH),  # BYTCHK=11b, and no block came
        ("2e000000001000000800", BAD_LENGTH),
        ("2e060000001000000800", BAD_FIELD),
        ("8e00" + "00000000001fffff" + "00000002" + "0000", BEYOND),
        ("34000000001000200100", BAD_FIELD),  # more than 4 MiB
        ("34000020000000000200", BEYOND),
        ("9e12" + "0000000000200000" + "00000018" + "0000", BEYOND),
        ("35000020000100000000", BEYOND),
        ("9300" + "0000000000000000" + "00000000" + "0000", BAD_FIELD),  # WSNZ
        ("9301" + "0000000000000000" + "00008001" + "0000", BAD_FIELD),  # more than 16 MiB
        ("9311" + "0000000000000000" + "00000001" + "0000", BAD_FIELD),  # ANCHOR
        ("9301" + "00000000001fffff" + "00000002" + "0000", BEYOND),
        ("9300" + "0000000000000000" + "00000001" + "0000", BAD_LENGTH),  # no block came
        ("42010000000000001800", BAD_FIELD),  # ANCHOR
        ("120000000500"[:4] + "8300ff00", BAD_FIELD),  # a page without EVPD
        ("1201c000ff00", BAD_FIELD),
        ("1a083e00ff00", BAD_FIELD),
        ("1a083f01ff00", BAD_FIELD),
        ("1a08c800ff00", "05/39/00"),
        ("1b0000000000", BAD_FIELD),  # stop
        ("1b0000000300", BAD_FIELD),  # load
        ("030100001200", BAD_FIELD),
        ("a36a" + "00" * 10, BAD_FIELD),
        ("a308" + "00" * 10, "05/20/00"),
        ("9e11" + "00" * 14, "05/20/00"),
        ("8300" + "00" * 14, "05/20/00"),  # EXTENDED COPY
        ("8400" + "00" * 14, "05/20/00"),  # RECEIVE COPY RESULTS
        ("8b00" + "00" * 14, "05/20/00"),  # ORWRITE
        ("9c00" + "00" * 14, "05/20/00"),  # WRITE ATOMIC
        ("ff" + "00" * 15, "05/20/00"),
        ("7f" + "00" * 31, "05/20/00"),
    ],
)
def test_refusals(cdb: str, wanted: str) -> None:
    if wanted:
        assert refusal(cdb) == wanted
    else:
        assert data(cdb) == b""


def test_a_read_only_unit_refuses_every_write() -> None:
    locked = unit(read_only=True)
    unmap = bytes.fromhex("0016001000000000" + "0000000000000000" + "0000000800000000")
    for cdb, parameters in [
        ("2a000000001000000800", b""),
        ("8900" + "0000000000000010" + "00000001" + "0000", b""),
        ("9301" + "0000000000000010" + "00000001" + "0000", b""),
        ("42000000000000001800", unmap),
    ]:
        assert refusal(cdb, parameters, locked) == "07/27/00"


def steps(got: Plan) -> list[tuple[Op, int, int]]:
    assert isinstance(got, Steps)
    return [(step.op, step.offset, step.length) for step in got.steps]


def test_synchronize_cache_flushes_everything() -> None:
    for cdb in ("35000000000000000000", "35020000001000000800", "9100" + "00" * 14):
        assert steps(plan(cdb)) == [(Op.FLUSH, 0, 0)]


def test_verify_reads() -> None:
    mib = 1 << 20
    assert steps(plan("2f000000000100100100")) == [
        (Op.READ, 512, mib),
        (Op.READ, 512 + mib, mib),
        (Op.READ, 512 + 2 * mib, 512),
    ]


def test_verify_compares() -> None:
    content = bytes(range(256)) * 4
    got = plan("2f020000000100" + "000200", content)
    assert steps(got) == [(Op.READ, 512, 1024)]
    assert isinstance(got, Steps) and got.steps[0].data == content


def unmap_list(*ranges: tuple[int, int]) -> bytes:
    body = b"".join(lba.to_bytes(8, "big") + n.to_bytes(4, "big") + bytes(4) for lba, n in ranges)
    return (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4) + body


def unmap_cdb(parameters: bytes) -> str:
    return "42000000000000" + len(parameters).to_bytes(2, "big").hex() + "00"


def test_unmap_zeroes_exactly_what_it_names() -> None:
    parameters = unmap_list((1, 3), (100, 0), (1 << 20, 131072))
    assert steps(plan(unmap_cdb(parameters), parameters)) == [
        (Op.ZERO, 512, 1536),
        (Op.ZERO, 512 << 20, 32 << 20),
        (Op.ZERO, (512 << 20) + (32 << 20), 32 << 20),
    ]
    assert data("42000000000000000000") == b""
    assert steps(plan(unmap_cdb(unmap_list()), unmap_list())) == []


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        (unmap_list((0, 8), (BLOCKS - 1, 2)), BEYOND),
        (unmap_list((0, 200000), (200000, 100000)), "05/26/00"),
        (unmap_list(*[(i, 1) for i in range(257)]), "05/26/00"),
        (unmap_list((0, 8))[:-1], "05/1a/00"),
        (b"\0\0\0", "05/1a/00"),
    ],
)
def test_an_unmap_with_anything_wrong_does_nothing(parameters: bytes, wanted: str) -> None:
    assert refusal(unmap_cdb(parameters), parameters) == wanted


def test_write_same() -> None:
    zeros, pattern = bytes(512), b"\1" + bytes(511)
    ten = "4100" + "00000001" + "00" + "0801" + "00"
    assert steps(plan(ten, zeros)) == [(Op.ZERO, 512, 2049 * 512)]
    assert steps(plan("4108" + ten[4:], zeros)) == [(Op.ZERO, 512, 2049 * 512)]
    for flags in ("00", "08"):  # with UNMAP too: a pattern is written
        got = plan("41" + flags + ten[4:], pattern)
        assert steps(got) == [(Op.WRITE, 512, 1 << 20), (Op.WRITE, 512 + (1 << 20), 512)]
        assert isinstance(got, Steps) and got.steps[0].data == pattern * 2048
    ndob = "9301" + "0000000000000003" + "00000005" + "0000"
    assert steps(plan(ndob)) == [(Op.ZERO, 3 * 512, 5 * 512)]
    assert steps(plan("9309" + ndob[4:])) == [(Op.ZERO, 3 * 512, 5 * 512)]


def test_target_port_groups() -> None:
    both = unit(groups=(PortGroup(1, 1), PortGroup(2, 7, 2)))
    groups = "000f000100020001" + "00000001" + "020f000200020001" + "00000007"
    assert data("a30a00000000000000ff0000", of=both).hex() == "00000018" + groups
    assert data("a32a00000000000000ff0000", of=both).hex() == "0000001c" + "10000000" + groups
    assert data("a30a00000000000000080000", of=both).hex() == "00000018000f0001"


def told(role: str, host: str, members: str = "ab") -> Desired:
    """On hosts a, b and c with tags 1, 2 and 3; a is the primary, those of `members` are in sync."""
    tags = {"a": 1, "b": 2, "c": 3}
    peers = tuple(
        DesiredPeer(other, "::1", 20000 + tag, tag, other in members)
        for other, tag in tags.items()
        if other != host
    )
    return Desired(
        UID, BLOCKS * 512, role, 4, tuple(members), "a", True, "::1", 20000, peers, portal_group=tags[host]
    )


def of(role: str, host: str, members: str = "ab") -> Unit:
    groups, here = port_groups(told(role, host, members))
    return unit(groups=groups, here=here)


ROLES = {"a": "primary", "b": "mirror", "c": "joiner"}
RTPG = "a30a00000000000000ff0000"


def test_all_hosts_give_the_same_answers() -> None:
    """One disk with three paths: what differs is which port it was asked through."""
    units = {host: of(role, host) for host, role in ROLES.items()}
    groups = (
        "000f000100020001" + "00000001" + "020f000200020001" + "00000002" + "030f000300020001" + "00000003"
    )
    for host, one in units.items():
        assert data(RTPG, of=one).hex() == "00000024" + groups
        for cdb in ("12000000ff00", "12018000ff00", "12018600ff00", "1201b000ff00", "1201b100ff00",
                    "1201b200ff00", "25000000000000000000", "9e10" + "00" * 8 + "00000020" + "0000",
                    "1a083f00ff00", "a30c000000000000ffff0000"):  # fmt: skip
            assert data(cdb, of=one) == data(cdb, of=units["a"]), (host, cdb)
    pages = {host: data("12018300ff00", of=one) for host, one in units.items()}
    ports = {host: bytes([0x51, 0x94, 0, 4, 0, 0, 0, tag, 0x51, 0x95, 0, 4, 0, 0, 0, tag])
             for tag, host in enumerate("abc", 1)}  # fmt: skip
    assert {host: page[: -len(ports[host])] for host, page in pages.items()} == dict.fromkeys(
        "abc", pages["a"][:-16]
    )
    assert {host: page[-16:] for host, page in pages.items()} == ports


@pytest.mark.parametrize(
    ("role", "members", "states"),
    [
        ("primary", "ab", (ACTIVE_OPTIMIZED, STANDBY, UNAVAILABLE)),
        ("primary", "a", (ACTIVE_OPTIMIZED, UNAVAILABLE, UNAVAILABLE)),
        ("primary", "abc", (ACTIVE_OPTIMIZED, STANDBY, STANDBY)),
        # It restarted, and knows it before the record does.
        ("joiner", "b", (UNAVAILABLE, STANDBY, UNAVAILABLE)),
    ],
)
def test_states_of_port_groups(role: str, members: str, states: tuple[int, ...]) -> None:
    groups, here = port_groups(told(role, "a", members))
    assert tuple(group.state for group in groups) == states and here == 0


ANYWHERE = {0x03, 0x12, 0x15, 0x1A, 0x25, 0x55, 0x5A, 0x9E, 0xA3}
"""Opcodes that every path serves."""


@pytest.mark.parametrize(
    ("role", "host", "sense"), [("mirror", "b", "02/04/0b"), ("joiner", "c", "02/04/0c")]
)
def test_a_path_that_is_not_active(role: str, host: str, sense: str) -> None:
    """Each command passes, or is refused here, or goes to the device, which refuses and counts it."""
    one = of(role, host)
    for entry in commands.ENTRIES:
        cdb = bytes([entry.opcode, entry.service_action or 0]).ljust(16, b"\0")
        if entry.opcode == 0x93:
            cdb = bytes([0x93, 1]) + bytes(11) + b"\1" + bytes(2)
        elif entry.opcode in (0x28, 0x2A, 0x2F, 0x41):
            cdb = bytes([entry.opcode]) + bytes(7) + b"\1\0"
        got = commands.plan(cdb, one, lambda: bytes(512))
        if entry.opcode in ANYWHERE and entry.plan is not provisioning.get_lba_status:
            assert got == plan(cdb.hex(), of=one) or isinstance(got, Answer)
            assert not (isinstance(got, Answer) and got.sense[2:3] == b"\2"), entry
        elif isinstance(got, Answer):
            assert refusal(cdb.hex(), bytes(512), one) == sense, entry
    assert isinstance(plan("28000000001000000800", of=one), Transfer)
    assert steps(plan("35000000000000000000", of=one)) == [(Op.FLUSH, 0, 0)]
    for refused in ("000000000000", "1b0000000100", "28000020000000000100", "2f000000000000000000",
                "28000000001000000000", "42000000000000000000"):  # fmt: skip
        assert refusal(refused, of=one) == sense
    assert refusal("ff" + "00" * 15, of=one) == "05/20/00"


def test_a_change_of_states_is_an_attention() -> None:
    before = of("mirror", "b")
    groups, here = port_groups(told("primary", "b", "b"))
    after = before.with_groups(groups, here)
    assert refusal("000000000000", of=after) == "06/2a/06"
    assert data("000000000000", of=after) == b""
    assert after.with_groups(groups, here) is after and data("000000000000", of=after) == b""
    assert before.path_sense and not after.path_sense


def test_supported_operation_codes() -> None:
    listed = data("a30c000000000000ffff0000")
    assert int.from_bytes(listed[:4], "big") == len(listed) - 4
    found = [listed[i : i + 8] for i in range(4, len(listed), 8)]
    assert len(found) == len(commands.ENTRIES)
    lengths = (6, 10, 10, 12, 16, 12)
    for entry, item in zip(commands.ENTRIES, found, strict=True):
        usage = bytes.fromhex(entry.usage)
        assert usage[0] == entry.opcode == item[0]
        assert len(usage) == lengths[entry.opcode >> 5] == int.from_bytes(item[6:8], "big")
        if entry.service_action is not None:
            assert usage[1] & 0x1F == entry.service_action and item[5] == 1
    timed = data("a30c800000000000ffff0000")
    assert len(timed) == 4 + 20 * len(commands.ENTRIES) and timed[4 + 5] & 2
    assert timed[4 + 8 : 4 + 20].hex() == "000a" + "00" * 10
    assert data("a30c812800000000ffff0000").hex() == "0083000a28f8ffffffff00ffff04" + "000a" + "00" * 10
    assert data("a30c012800000000ffff0000").hex() == "0003000a28f8ffffffff00ffff04"
    assert data("a30c029e00100000ffff0000")[:4].hex() == "00030010"
    assert data("a30c029e00110000ffff0000").hex() == "00010000"
    assert data("a30c018300000000ffff0000").hex() == "00010000"
    assert data("a30c030000000000ffff0000")[:4].hex() == "00030006"
    assert refusal("a30c019e00000000ffff0000") == BAD_FIELD
    assert refusal("a30c022800000000ffff0000") == BAD_FIELD


def test_what_the_kernel_answers_is_listed_where_it_does() -> None:
    assert refusal("a30c025f00010000ffff0000") == BAD_FIELD
    reservable = unit(reservable=True)
    assert data("a30c025f00010000ffff0000", of=reservable).hex() == "0003000a5f01ff0000ffffffff00"
    assert data("a30c025e00040000ffff0000", of=reservable).hex() == "00010000"
    listed = data("a30c000000000000ffff0000", of=reservable)
    assert len(listed) == 4 + 8 * (len(commands.ENTRIES) + len(commands.OF_THE_KERNEL))
    assert all(len(one.usage) == {0: 12, 2: 20}[one.opcode >> 5] for one in commands.OF_THE_KERNEL)


@pytest.mark.parametrize(
    ("cdb", "parameters", "wanted"),
    [
        ("28200000001000000800", b"", "C1.7"),
        ("8800" + "0000000000000000" + "00002001" + "0000", b"", "C10"),
        ("a800000000000000200100" + "00", b"", "C6"),
        ("8900" + "0000000000000000" + "00000081" + "0000", b"", "C13"),
        ("2f040000001000000800", b"", "C1.2"),
        ("9311" + "0000000000000000" + "00000001" + "0000", b"", "C1.4"),
        ("41000000000000000000", bytes(512), "C7"),
        ("42010000000000001800", b"", "C1.0"),
        ("1201c000ff00", b"", "C2"),
        ("1a083e00ff00", b"", "C2.5"),
        ("1a083f01ff00", b"", "C3"),
        ("1b0000000000", b"", "C4.0"),
        ("1b0000000300", b"", "C4.1"),
        ("a36a" + "00" * 10, b"", "C1.7"),
        ("a30c019e00000000ffff0000", b"", "C3"),
        ("151000001800", bytes.fromhex("00000000" + CACHING.replace("04", "00")), "D6"),
        ("151000000c00", bytes.fromhex("00000008" + "0020000000001000"), "D4"),
        ("000000000004", b"", "C5.2"),  # NACA, with every length of CDB
        ("080000100804", b"", "C5.2"),
        ("28000000001000000804", b"", "C9.2"),
        ("a800000000100000000800" + "04", b"", "C11.2"),
        ("8a00" + "0000000000000010" + "00000008" + "0004", b"", "C15.2"),
        ("9301" + "0000000000000010" + "00000008" + "0004", bytes(512), "C15.2"),
    ],
)
def test_what_is_wrong_is_pointed_at(cdb: str, parameters: bytes, wanted: str) -> None:
    assert pointed(cdb, parameters)[1] == wanted


def test_write_and_verify_writes_to_the_medium_and_reads() -> None:
    content = bytes(range(256)) * 4
    for flags, compared in (("00", b""), ("02", content)):
        for cdb in (
            f"2e{flags}" + "00000001" + "00" + "0002" + "00",
            f"ae{flags}" + "00000001" + "00000002" + "0000",
            f"8e{flags}" + "0000000000000001" + "00000002" + "0000",
        ):
            got = plan(cdb, content)
            assert steps(got) == [(Op.WRITE, 512, 1024), (Op.READ, 512, 1024)] and isinstance(got, Steps)
            assert got.steps[0].fua and got.steps[0].data == content and got.steps[1].data == compared


def test_verify_compares_each_block_with_one() -> None:
    block = b"b" * 512
    got = plan("af06" + "00000001" + "00000801" + "0000", block)
    assert steps(got) == [(Op.READ, 512, 1 << 20), (Op.READ, 512 + (1 << 20), 512)]
    assert isinstance(got, Steps) and [step.data for step in got.steps] == [block * 2048, block]


def test_prefetch_reads() -> None:
    got = plan("34000000001000000800")
    assert steps(got) == [(Op.READ, 8192, 4096)] and isinstance(got, Steps) and got.status == 4
    got = plan("9002" + "0000000000000010" + "00000000" + "0000")  # to the end, as far as that goes
    assert steps(got) == [(Op.READ, 8192 + (at << 20), 1 << 20) for at in range(4)]
    assert isinstance(got, Steps) and got.status == 0
    got = plan("9000" + "00000000001ffff8" + "00000000" + "0000")
    assert steps(got) == [(Op.READ, 0x1FFFF8 * 512, 4096)] and isinstance(got, Steps) and got.status == 4


def test_lba_status() -> None:
    got = plan("9e12" + "0000000000000010" + "00000028" + "0000")
    assert isinstance(got, Look) and (got.offset, got.length) == (8192, (1 << 30) - 8192)
    answer = got.answer([(4096, True), (8192, False)])
    assert answer.hex() == (
        "00000024" + "00000000" + "0000000000000010" + "00000008" + "00000000"
        + "0000000000000018" + "00000010" + "01000000"
    )  # fmt: skip
    shorter = plan("9e12" + "0000000000000010" + "00000018" + "0000")
    assert isinstance(shorter, Look) and shorter.answer([(4096, True), (8192, False)]) == answer[:24]


def test_unit_attention_is_told_once_and_not_to_inquiry() -> None:
    one = unit()
    one.attentions.establish(0x29, 0x00)
    one.attentions.establish(0x29, 0x00)
    assert data("12000000ff00", of=one)
    assert refusal("000000000000", of=one) == "06/29/00"
    assert data("000000000000", of=one) == b""
    one.attentions.establish(0x2A, 0x09)
    assert data("030000001200", of=one).hex() == "70000600000000" + "0a00000000" + "2a09" + "00000000"
    assert data("030000001200", of=one)[2] == 0


@pytest.mark.parametrize(
    ("outcome", "reading", "wanted"),
    [
        (Outcome.OK, True, (0, "")),
        (Outcome.BUSY, False, (8, "")),
        (Outcome.STALE_EPOCH, False, (8, "")),
        (Outcome.STANDBY, True, (2, "02/04/0b")),
        (Outcome.MEDIUM_ERROR, True, (2, "03/11/00")),
        (Outcome.MEDIUM_ERROR, False, (2, "03/0c/00")),
        (Outcome.NO_SPACE, False, (2, "07/27/07")),
        (Outcome.READ_ONLY, False, (2, "07/27/00")),
        (Outcome.INVALID, False, (2, BEYOND)),
        (Outcome.MISCOMPARE, False, (2, "0e/1d/00")),
    ],
)
def test_outcomes(outcome: Outcome, reading: bool, wanted: tuple[int, str]) -> None:
    code, sense = status.of_outcome(outcome, reading, 513)
    words = f"{sense[2]:02x}/{sense[12]:02x}/{sense[13]:02x}" if sense else ""
    assert (code, words) == wanted
    if outcome is Outcome.MISCOMPARE:
        assert sense[0] == 0xF0 and int.from_bytes(sense[3:7], "big") == 513
