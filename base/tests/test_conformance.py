"""Clients that nobody here wrote, as judges: nbdinfo, nbdcopy, qemu-img, qemu-io and Python's libnbd.

Each runs in a process of its own against an export in memory, in clear and over TLS.
"""

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd import wire
from holdfast.base.nbd.export import Export
from holdfast.base.nbd.testing import MemoryExport, drive
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity

_SIZE = 16 * MIB


class _Serving(Protocol):
    exports: dict[str, Export]
    peers: list[PeerIdentity | None]
    clear_port: int
    tls_port: int


@dataclass
class _Judge:
    """Runs tools against the export, and gives what they print."""

    loop: Loop
    tool: Callable[[str], str]
    serving: _Serving
    export: MemoryExport
    credentials: Path | None
    """The client's folder of certificates; None in clear."""

    @property
    def uri(self) -> str:
        """As libnbd's tools take it."""
        if self.credentials is None:
            return f"nbd://127.0.0.1:{self.serving.clear_port}/x"
        return f"nbds://127.0.0.1:{self.serving.tls_port}/x?tls-certificates={self.credentials}"

    @property
    def image(self) -> list[str]:
        """As qemu's tools take it."""
        port = self.serving.clear_port if self.credentials is None else self.serving.tls_port
        options = f"driver=nbd,host=127.0.0.1,port={port},export=x"
        if self.credentials is None:
            return ["--image-opts", options]
        creds = f"tls-creds-x509,id=t,endpoint=client,dir={self.credentials}"
        return ["--object", creds, "--image-opts", f"{options},tls-creds=t"]

    def run(self, name: str, *arguments: str, fails: bool = False) -> str:
        """What the tool prints; it must end well, or with an error if it `fails`."""
        command = [self.tool(name), *arguments]
        ended = drive(
            self.loop,
            lambda: subprocess.run(command, capture_output=True, text=True, timeout=60, check=False),
        )
        assert bool(ended.returncode) == fails, ended.stdout + ended.stderr
        return ended.stdout + (ended.stderr if fails else "")

    def nbd(self, script: str) -> Any:
        """The JSON that a script of Python's libnbd prints; `h` is connected to the export."""
        whole = (
            "import json, nbd\n"
            "h = nbd.NBD()\n"
            "h.set_uri_allow_local_file(True)\n"
            "h.add_meta_context('base:allocation')\n"
            "h.add_meta_context('holdfast:changed')\n"
            f"h.connect_uri({self.uri!r})\n" + script
        )
        ended = drive(
            self.loop,
            lambda: subprocess.run(
                ["/usr/bin/python3", "-c", whole], capture_output=True, text=True, timeout=60, check=False
            ),
        )
        assert "No module named 'nbd'" not in ended.stderr, "apt-get install python3-libnbd"
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)


@pytest.fixture(params=["clear", "tls"])
def judge(
    request: pytest.FixtureRequest,
    loop: Loop,
    serving: _Serving,
    authority: TestAuthority,
    tool: Callable[[str], str],
) -> _Judge:
    export = MemoryExport(_SIZE, contexts=(wire.CONTEXT_ALLOCATION, "holdfast:changed"))
    serving.exports["x"] = export
    credentials = authority.issue("tool", "user").ca.parent if request.param == "tls" else None
    return _Judge(loop, tool, serving, export, credentials)


def _fill(export: MemoryExport, seed: int) -> bytes:
    """Random data in a few places, holes elsewhere."""
    chance = random.Random(seed)
    for start, length in ((0, 5), (256, 700), (2000, 1), (4000, 96)):
        export.data[start * 4096 : (start + length) * 4096] = chance.randbytes(length * 4096)
        export.allocated.update(range(start, start + length))
    return bytes(export.data)


def test_nbdinfo_sees_what_is_offered(judge: _Judge) -> None:
    info = json.loads(judge.run("nbdinfo", "--json", judge.uri))
    assert info["protocol"] == "newstyle-fixed" and info["structured"] is True
    assert info["TLS"] is (judge.credentials is not None)
    (export,) = info["exports"]
    assert export["export-size"] == _SIZE and not export["is_read_only"]
    assert export["contexts"] == ["base:allocation", "holdfast:changed"]
    assert tuple(export[f"block_size_{kind}"] for kind in ("minimum", "preferred", "maximum")) == (
        1,
        4096,
        32 * MIB,
    )
    for can in ("cache", "df", "flush", "fua", "trim", "zero"):
        assert export[f"can_{can}"], can
    assert not export["can_multi_conn"] and not export["can_fast_zero"]
    if judge.credentials is not None:
        assert set(judge.serving.peers) == {PeerIdentity("tool", "user")}


def test_nbdinfo_maps_what_is_allocated_and_what_changed(judge: _Judge) -> None:
    _fill(judge.export, 10)
    judge.export.dirty = set(range(32, 64))
    found = json.loads(judge.run("nbdinfo", "--map", "--json", judge.uri))
    starts = [(run["offset"] // 4096, run["length"] // 4096, run["type"]) for run in found]
    assert [run for run in starts if run[2] == 0] == [(0, 5, 0), (256, 700, 0), (2000, 1, 0), (4000, 96, 0)]
    assert sum(length for _, length, _ in starts) * 4096 == _SIZE
    found = json.loads(judge.run("nbdinfo", "--map=holdfast:changed", "--json", judge.uri))
    assert [(run["offset"], run["length"], run["type"]) for run in found] == [
        (0, 128 * KIB, 0),
        (128 * KIB, 128 * KIB, 1),
        (256 * KIB, _SIZE - 256 * KIB, 0),
    ]


def test_exports_are_not_listed(judge: _Judge) -> None:
    said = judge.run("nbdinfo", "--list", judge.uri.replace("/x", "/"), fails=True)
    assert "error to list request" in said


def test_an_unknown_export_is_refused_with_a_sentence(judge: _Judge) -> None:
    said = judge.run("nbdinfo", judge.uri.replace("/x", "/other"), fails=True)
    assert "error to opt_go request: No such file" in said


def test_nbdcopy_copies_out_and_in(judge: _Judge, tmp_path: Path) -> None:
    data = _fill(judge.export, 11)
    copy = tmp_path / "copy"
    judge.run("nbdcopy", judge.uri, str(copy))
    assert copy.read_bytes() == data
    other = bytearray(random.Random(12).randbytes(_SIZE))
    other[5 * MIB : 7 * MIB] = bytes(2 * MIB)
    copy.write_bytes(other)
    judge.run("nbdcopy", "--flush", str(copy), judge.uri)
    assert judge.export.data == other and judge.export.flushes


def test_nbdcopy_reads_a_read_only_export_over_several_connections(judge: _Judge, tmp_path: Path) -> None:
    data = _fill(judge.export, 13)
    judge.export.read_only = True
    judge.run("nbdcopy", "--connections=4", "--threads=4", judge.uri, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == data
    assert judge.export.opened_count >= 4


def test_qemu_img_converts_compares_and_maps(judge: _Judge, tmp_path: Path) -> None:
    data = _fill(judge.export, 14)
    copy = tmp_path / "copy"
    judge.run("qemu-img", "convert", *judge.image, "-O", "raw", str(copy))
    assert copy.read_bytes() == data
    found = json.loads(judge.run("qemu-img", "map", "--output=json", *judge.image))
    allocated = [(run["start"] // 4096, run["length"] // 4096) for run in found if run["data"]]
    assert allocated == [(0, 5), (256, 700), (2000, 1), (4000, 96)]
    if judge.credentials is None:
        other = f"driver=nbd,host=127.0.0.1,port={judge.serving.clear_port},export=x"
        judge.run(
            "qemu-img", "compare", "--image-opts", other, f"driver=raw,file.driver=file,file.filename={copy}"
        )


def test_qemu_io_writes_zeroes_discards_and_flushes(judge: _Judge) -> None:
    commands = [
        "write -P 0xab 0 1M",
        "write -f -P 0xcd 1M 64k",
        "write -z 64k 128k",
        "discard 512k 128k",
        "flush",
    ]
    commands += ["read -P 0xab 0 64k", "read -P 0 64k 128k", "read -P 0xab 192k 320k", "read -P 0xcd 1M 64k"]
    commands += ["aio_write -P 0x11 2M 8M", "aio_write -P 0x22 10M 4M", "aio_flush", "read -P 0x22 10M 4M"]
    said = judge.run("qemu-io", *(part for command in commands for part in ("-c", command)), *judge.image)
    assert "failed" not in said and "error" not in said.lower(), said
    export = judge.export
    assert export.data[: 64 * KIB] == b"\xab" * (64 * KIB) and export.data[64 * KIB : 192 * KIB] == bytes(
        128 * KIB
    )
    assert export.fua_writes and export.flushes


def test_libnbd_pipelines_with_the_strictest_flags(judge: _Judge) -> None:
    data = _fill(judge.export, 15)
    answer = judge.nbd(
        """
h.set_strict_mode(0)
cookies, buffers = [], []
for n in range(64):
    buffer = nbd.Buffer(65536 + n)
    buffers.append(buffer)
    cookies.append(h.aio_pread(buffer, n * 100000))
    if n % 2:
        data = nbd.Buffer.from_bytearray(bytearray([n]) * 5000)
        buffers.append(data)
        cookies.append(h.aio_pwrite(data, 12000000 + n * 5000, flags=nbd.CMD_FLAG_FUA))
while h.aio_in_flight():
    h.poll(-1)
assert all(h.aio_command_completed(cookie) for cookie in cookies)
errors = []
def attempt(name, call):
    try:
        call()
        errors.append([name, 0])
    except nbd.Error as e:
        errors.append([name, e.errnum])
attempt('df', lambda: h.pread(65536, 0, flags=nbd.CMD_FLAG_DF))
attempt('read outside', lambda: h.pread(4096, SIZE))
attempt('write outside', lambda: h.pwrite(b'x' * 4096, SIZE - 1))
attempt('trim', lambda: h.trim(4096, 8192, flags=nbd.CMD_FLAG_FUA))
attempt('zero', lambda: h.zero(4096, 16384, flags=nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA))
attempt('fast zero', lambda: h.zero(4096, 16384, flags=nbd.CMD_FLAG_FAST_ZERO))
attempt('cache', lambda: h.cache(4096, 0))
attempt('flush', lambda: h.flush())
attempt('unknown flag', lambda: h.flush(flags=0))
seen = {}
def extents(context, offset, entries, error):
    seen.setdefault(context, []).append([offset, entries])
    return 0
h.block_status(SIZE, 0, extents)
h.block_status(SIZE, 0, extents, flags=nbd.CMD_FLAG_REQ_ONE)
first = bytes(h.pread(1000, 0)).hex()
h.shutdown()
print(json.dumps([errors, seen, first]))
""".replace("SIZE", str(_SIZE))
    )
    errors, seen, first = answer
    assert dict(errors) == {
        "df": 0,
        "read outside": wire.EINVAL,
        "write outside": wire.ENOSPC,
        "trim": 0,
        "zero": 0,
        "fast zero": wire.EINVAL,
        "cache": 0,
        "flush": 0,
        "unknown flag": 0,
    }
    assert len(seen["base:allocation"][0][1]) > 6 and len(seen["base:allocation"][1][1]) == 2
    assert seen["holdfast:changed"][0] == [0, [_SIZE, 0]]
    assert bytes.fromhex(first) == data[:1000]
    for n in range(1, 64, 2):
        start = 12000000 + n * 5000
        assert judge.export.data[start : start + 5000] == bytes([n]) * 5000


def test_libnbd_without_structured_replies(judge: _Judge) -> None:
    data = _fill(judge.export, 16)
    first = judge.nbd(
        f"""
h.shutdown()
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.set_request_structured_replies(False)
h.connect_uri({judge.uri!r})
assert not h.get_structured_replies_negotiated()
print(json.dumps([bytes(h.pread(1000000, 5)).hex(), h.can_df()]))
"""
    )
    assert bytes.fromhex(first[0]) == data[5:1000005] and not first[1]


def test_libnbd_in_option_mode_sees_refusals_and_contexts(judge: _Judge) -> None:
    answer = judge.nbd(
        f"""
h.shutdown()
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.set_opt_mode(True)
h.connect_uri({judge.uri!r})
found = []
h.opt_list_meta_context(lambda name: found.append(name) or 0)
h.add_meta_context('holdfast:')
namespace = []
h.opt_list_meta_context(lambda name: namespace.append(name) or 0)
h.clear_meta_contexts()
def attempt(call):
    try:
        call()
        return 0
    except nbd.Error as e:
        return e.errnum
listed = attempt(lambda: h.opt_list(lambda *_: 0))
h.set_export_name('other')
unknown = attempt(h.opt_go)
h.set_export_name('x')
h.opt_info()
size = h.get_size()
h.opt_go()
h.shutdown()
print(json.dumps([found, namespace, listed != 0, unknown != 0, size]))
"""
    )
    assert answer == [["base:allocation", "holdfast:changed"], ["holdfast:changed"], True, True, _SIZE]


def test_a_tool_without_a_certificate_is_refused(
    judge: _Judge, tmp_path: Path, authority: TestAuthority
) -> None:
    if judge.credentials is None:
        uri = f"nbd://127.0.0.1:{judge.serving.tls_port}/x"
    else:
        stranger = TestAuthority(tmp_path, "Somebody else").issue("tool", "user").ca.parent
        (stranger / "ca-cert.pem").write_bytes(authority.ca.read_bytes())
        uri = f"nbds://127.0.0.1:{judge.serving.tls_port}/x?tls-certificates={stranger}"
    judge.run("nbdinfo", uri, fails=True)
    assert not judge.export.opened_count and not judge.serving.peers
