"""Many writes at once, in C and in Python: the same requests, the same file and the same answer."""

import contextlib
import ctypes
import errno
import os
import random
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.replicator import files
from holdfast.replicator.files import DataFile, Files, one_by_one

SIZE = 1 << 20
STORIES = 60
quick = files._quick

pytestmark = pytest.mark.skipif(quick is None, reason="built without a compiler")


def _ignored(_outcome: Outcome) -> None: ...


def _blocks(*offsets: int) -> list[Request]:
    """A WRITE of 512 bytes at each."""
    return [Request(Op.WRITE, at, 512, _ignored, [memoryview(b"x" * 512)]) for at in offsets]


@contextlib.contextmanager
def _files_end_at(most_bytes: int) -> Iterator[None]:
    """The kernel writes nothing behind that: what crosses it is cut short, what begins there is EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _requests(chance: random.Random) -> list[Request]:
    """WRITEs that do not overlap; many follow the one before, some have several buffers, or very many."""
    found, at = [], chance.randrange(4096)
    while at < SIZE - 20_000 and len(found) < 40:
        sizes = [chance.randrange(1, 2000) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        if chance.random() < 0.05:
            sizes = [1] * 300
        content = [memoryview(chance.randbytes(size)) for size in sizes]
        found.append(Request(Op.WRITE, at, sum(sizes), _ignored, content))
        at += sum(sizes) + chance.choice((0, 0, 0, 1, 4096, 30_000))
    if chance.random() < 0.5:
        chance.shuffle(found)
    return found


def _write(data: DataFile, requests: list[Request]) -> None:
    """As LocalReplica.apply_all goes on."""
    count, error = data.write_all(requests)
    assert error is None
    for request in requests[count:]:
        data.write(request.buffers, request.offset, request.length)


def test_files_are_written_alike(directory: Path) -> None:
    whole = 0
    for seed in range(STORIES):
        one = Files(directory).data(f"one-{seed}", SIZE, make=True)
        two = Files(directory).data(f"two-{seed}", SIZE, make=True)
        requests = _requests(random.Random(seed))
        whole += one.write_all(requests) == (len(requests), None)
        _write(one, requests)
        assert one_by_one(two.write, requests) == (len(requests), None)
        assert one.read(0, SIZE) == two.read(0, SIZE), f"seed {seed}"
        one.close()
        two.close()
    assert whole


def test_an_error_is_told_with_what_came_before_it(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    requests = _blocks(0, 4096, 8192)
    with _files_end_at(4096):
        in_c = data.write_all(requests)
        in_python = one_by_one(data.write, requests)
    for count, error in (in_c, in_python):
        assert count == 1 and error is not None and error.errno == errno.EFBIG
    data.close()
    count, error = data.write_all(requests)
    assert count == 0 and error is not None and error.errno == errno.EBADF


def test_what_is_cut_short_is_left_to_be_written_again(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    with _files_end_at(700):
        assert data.write_all(_blocks(0, 512, 1024)) == (0, None)
    data.close()


def test_one_that_was_given_up_is_left(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    requests = _blocks(0, 512, 1024)
    requests[1].buffers = []
    assert data.write_all(requests) == one_by_one(data.write, requests) == (1, None)
    with pytest.raises(AssertionError, match="0 bytes to write where 512"):
        data.write([], 0, 512)
    data.close()


_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_PWRITEV = {"x86_64": 296, "aarch64": 70}.get(os.uname().machine)


def _interrupt_every_pwritev() -> None:
    """For the rest of this process the kernel answers it EINTR, by a filter (seccomp(2))."""
    filters = (
        (0x20, 0, 0, 0),  # load the call's number
        (0x15, 0, 1, _PWRITEV),
        (0x06, 0, 0, 0x00050000 | errno.EINTR),
        (0x06, 0, 0, 0x7FFF0000),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in filters))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(filters), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) == 0
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    assert libc.prctl(_PR_SET_SECCOMP, mode, program, zero, zero) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.skipif(_PWRITEV is None, reason="the number of the system call is not known here")
def test_a_signal_is_no_fault_of_the_disk(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    requests = [Request(Op.WRITE, at, 512, _ignored, [memoryview(b"x" * 512)]) for at in (0, 512, 8192)]
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            _interrupt_every_pwritev()
            status = 0 if data.write_all(requests) == (0, None) else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    data.close()
