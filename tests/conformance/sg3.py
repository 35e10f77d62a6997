"""The unit as sg3-utils see it: each command with what it must print, on a disk that is logged in to."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from suite import FAILED, PASSED, Verdict

from holdfast.lab.guest import Guest

_LIMIT_S = 120
_INVALID, _OPCODE_UNKNOWN, _OUT_OF_RANGE, _CONFLICT = 5, 9, 22, 24
"""Exit statuses of sg3-utils for kinds of sense."""


@dataclass(frozen=True)
class Check:
    """`script` is a shell's, with the disk in $D. What it says must match all of `wanted`."""

    name: str
    script: str
    wanted: tuple[str, ...] = ()
    status: int = 0


def _what_it_is(uid: str, naa: str, blocks: int) -> Iterator[Check]:
    pages = tuple(rf"\[{page}\]" for page in ("sn", "di", "bl", "bdc", "lbpv"))
    limits = (
        *("WSNZ.*: 1", "Maximum transfer length: 8192", "Maximum prefetch (transfer )?length: 8192"),
        *("Maximum unmap LBA count: 262144", "Maximum write same length: (32768|0x8000)"),
        "Maximum compare and write length: 128",
    )
    thin = (r"\(LBPU\): 1", r"\(LBPWS\): 1", r"\(LBPWS10\): 1", "thin")
    yield Check("sg_inq", "sg_inq $D", ("HOLDFAST", "VOLUME", uid, "TPGS=1", "CmdQue=1", "3PC=0"))
    yield Check("sg_vpd.sv", "sg_vpd -p sv $D", pages)
    yield Check("sg_vpd.sn", "sg_vpd -p sn $D", (uid,))
    yield Check("sg_vpd.di", "sg_vpd -p di $D", (naa, "Relative target port", "Target port group"))
    yield Check("sg_vpd.bl", "sg_vpd -p bl $D", limits)
    yield Check("sg_vpd.bdc", "sg_vpd -p bdc $D", ("Non-rotating",))
    yield Check("sg_vpd.lbpv", "sg_vpd -p lbpv $D", thin)
    yield Check("sg_readcap.10", "sg_readcap $D", (f"{blocks - 1:#x}", f"blocks={blocks}"))
    yield Check("sg_readcap.16", "sg_readcap --16 $D", (f"={blocks}", "lbpme=1, lbprz=1", "exponent=3"))
    yield Check("sg_rtpg", "sg_rtpg --decode $D", ("active/optimized", "standby"))
    yield Check("sg_modes", "sg_modes $D", ("Caching", "Control", "Informational exceptions"))
    yield Check("sg_turs", "sg_turs -n 100 $D")
    yield Check("sg_requests", "sg_requests $D", ("[Nn]o Sense|Fixed format",))


def _what_it_does(blocks: int) -> Iterator[Check]:
    some = ("Compare and write", "Get LBA status", "Pre-fetch", "Unmap", "Write and verify")
    yield Check("sg_opcodes", "sg_opcodes $D", some)
    yield Check("sg_opcodes.one", "sg_opcodes --opcode=0x8a $D", ("8a f8( ff){12}",))
    yield Check("sg_opcodes.action", "sg_opcodes --opcode=0x9e --sa=0x12 $D", ("9e 12",))
    yield Check("sg_opcodes.unknown", "sg_opcodes --opcode=0x83 $D", ("NOT supported",))
    yield Check("sg_start.stop", "sg_start --stop $D", ("nvalid field|llegal",), _INVALID)
    yield Check("sg_sync", "sg_sync $D && sg_sync --16 $D")
    prefetch = "sg_raw $D 34 00 00 00 00 00 00 00 80 00 2>&1 || true"
    yield Check("sg_raw.prefetch", prefetch, ("Condition [Mm]et",))
    yield Check("sg_verify", "sg_verify --count=1024 $D && sg_verify --16 --count=1024 $D")
    end = f"sg_get_lba_status --lba={blocks} $D 2>&1"
    yield Check("sg_get_lba_status.end", end, ("out of range",), _OUT_OF_RANGE)
    beyond = f"sg_raw $D 28 00 {blocks.to_bytes(4, 'big').hex(' ')} 00 00 01 00 2>&1"
    yield Check("sg_raw.beyond", beyond, ("out of range",), _OUT_OF_RANGE)
    last = f"sg_dd if=$D bs=512 skip={blocks - 1} count=1 of=/dev/null 2>&1"
    yield Check("sg_dd.last", last, (r"1\+0 records in",))
    # Third-party copies are refused as commands that there are not.
    copy = "sg_raw -s 16 -i /dev/zero $D 83 00 00 00 00 00 00 00 00 00 00 00 00 10 00 00 2>&1"
    yield Check("sg_raw.extended-copy", copy, ("nvalid command operation code",), _OPCODE_UNKNOWN)


def _reservations() -> Iterator[Check]:
    out, read = "sg_persist --no-inquiry --out $D", "sg_persist --no-inquiry --in $D"
    key, new = "--param-rk=0xabc1", "--param-sark=0xabc2"
    state = f"{read} --read-keys; {read} --read-reservation"
    yield Check("sg_persist.report-capabilities", f"{read} --report-capabilities", ("Exclusive Access: 1",))
    register = f"{out} --register --param-sark=0xabc1 && {state}"
    yield Check("sg_persist.register", register, ("0xabc1", "NO reservation held"))
    yield Check(
        "sg_persist.reserve", f"{out} --reserve {key} --prout-type=1 && {state}", ("Write Exclusive",)
    )
    write = "dd if=/dev/zero of=$D oflag=direct bs=4096 count=1 status=none"
    yield Check("sg_persist.holder-writes", write)
    wrong = f"{out} --clear --param-rk=0xbad 2>&1"
    yield Check("sg_persist.wrong-key", wrong, ("Reservation conflict",), _CONFLICT)
    full = f"{read} --read-full-status"
    yield Check("sg_persist.read-full-status", full, ("Key=0xabc1", "iqn.2026-11", "Write Exclusive"))
    yield Check("sg_persist.change-key", f"{out} --register {key} {new} && {state}", ("0xabc2", "Write Ex"))
    yield Check(
        "sg_persist.release", f"{out} --release --param-rk=0xabc2 --prout-type=1 && {state}", ("NO res",)
    )
    yield Check("sg_persist.clear", f"{out} --clear --param-rk=0xabc2 && {state}", ("NO registered",))
    listed = "sg_opcodes $D"
    yield Check(
        "sg_opcodes.reservations", listed, ("Persistent reserve in, read keys", "reserve out, preempt")
    )


_NOISE = (
    "head -c 65536 /dev/urandom > /tmp/noise; dd if=/tmp/noise of=$D oflag=direct bs=64k status=none;"
    " head -c 512 /tmp/noise > /tmp/block; "
)
_SAME = "dd if=$D of=/tmp/back iflag=direct bs=64k count=1 status=none; cmp /tmp/back /tmp/noise"


def _put(source: str, at: int, count: int = 1) -> str:
    """The same in the file that the disk is compared with."""
    return "".join(
        f"dd if={source} of=/tmp/noise conv=notrunc bs=512 count=1 seek={block} status=none; "
        for block in range(at, at + count)
    )


def _what_it_changes() -> Iterator[Check]:
    """Each on 64 KiB of noise, which is read back and compared."""
    zeros = "/dev/zero"
    yield Check("sg_unmap", f"{_NOISE} sg_unmap --force --lba=3 --num=10 $D; {_put(zeros, 3, 10)} {_SAME}")
    lines = "sg_unmap --force --lba=64 --num=8 $D && sg_get_lba_status --maxlen=256 --lba=64 $D"
    runs = (r"LBA: 0x0*40 +blocks: +8 +deallocated", r"LBA: 0x0*48 +blocks: +\d+ +mapped")
    yield Check("sg_get_lba_status", _NOISE + lines, runs)
    same = "sg_write_same --16 --in=/tmp/block --lba=40 --num=9 --xferlen=512 $D;"
    yield Check("sg_write_same.16", f"{_NOISE} {same} {_put('/tmp/block', 40, 9)} {_SAME}")
    ndob = "sg_write_same --16 --unmap --ndob --lba=100 --num=5 $D;"
    yield Check("sg_write_same.ndob", f"{_NOISE} {ndob} {_put(zeros, 100, 5)} {_SAME}")
    ten = "sg_write_same --10 --unmap --in=/dev/zero --lba=110 --num=3 --xferlen=512 $D;"
    yield Check("sg_write_same.10", f"{_NOISE} {ten} {_put(zeros, 110, 3)} {_SAME}")
    swap = "sg_compare_and_write --in=/tmp/pair --lba=0 --num=1 --xferlen=1024 $D"
    pair = "cat /tmp/block > /tmp/pair; head -c 512 /dev/zero >> /tmp/pair;"
    twice = f"{_NOISE} {pair} {swap}; ! {swap} 2>&1; {_put(zeros, 0)} {_SAME}"
    yield Check("sg_compare_and_write", twice, ("iscompare",))
    verify = "sg_verify --count=128 --ndo=65536 --ebytchk=1 --in=/tmp/noise $D 2>&1"
    spoil = "printf x | dd of=/tmp/noise conv=notrunc bs=1 seek=5 status=none"
    yield Check("sg_verify.compare", f"{_NOISE} {verify} && {spoil} && ! {verify}", ("iscompare",))


def run_checks(guest: Guest, disk: str, uid: str, naa: str, blocks: int) -> Iterator[Verdict]:
    for check in _checks(uid, naa, blocks):
        yield _run(guest, disk, check)


def _checks(uid: str, naa: str, blocks: int) -> Iterator[Check]:
    yield from _what_it_is(uid, naa, blocks)
    yield from _what_it_does(blocks)
    yield from _reservations()
    yield from _what_it_changes()


def _run(guest: Guest, disk: str, check: Check) -> Verdict:
    done = guest.run(["sh", "-c", f"D={disk}; {check.script}"], check=False, timeout_s=_LIMIT_S)
    said = done.stdout + done.stderr
    lacks = [wanted for wanted in check.wanted if not re.search(wanted, said)]
    if done.returncode == check.status and not lacks:
        return Verdict(check.name, PASSED)
    return Verdict(check.name, FAILED, f"status {done.returncode}, without {lacks}: {said.strip()[-300:]!r}")
