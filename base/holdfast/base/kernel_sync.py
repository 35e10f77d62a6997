"""fdatasync(2) by the kernel's own threads (io_submit(2) with IOCB_CMD_FDSYNC), told by a descriptor.

A thread of ours costs a hand-over each way, and the interpreter's lock with it: 25 to 45 µs of processor for
a sync that has nothing to do, where this takes 8. What a sync reports is the same: both are vfs_fsync() of
the open file.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import NamedTuple

DEPTH = 64
"""Most syncs under way; who wants more is told, and goes another way."""
_NONE, _ONE, _ALL = ctypes.c_long(0), ctypes.c_long(1), ctypes.c_long(DEPTH)
_FDSYNC, _RESFD = 3, 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Calls(NamedTuple):
    setup: int
    destroy: int
    getevents: int
    submit: int


_CALLS = {"x86_64": _Calls(206, 207, 208, 209), "aarch64": _Calls(0, 1, 4, 2)}


class _Iocb(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, little endian."""

    _fields_ = (
        ("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16), ("priority", ctypes.c_int16), ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("result_fd", ctypes.c_uint32),
    )  # fmt: skip


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = (
        ("data", ctypes.c_uint64), ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64), ("more", ctypes.c_int64),
    )  # fmt: skip


Ended = Callable[[int], None]
"""Takes an errno; 0: it is on disk."""


class KernelSync:
    """`fd` becomes readable, by its edge, when one has ended: call `take`. Of one thread.

    Raises:
        OSError: this kernel has it not, or not for us.
    """

    def __init__(self) -> None:
        calls = _CALLS.get(os.uname().machine)
        if calls is None:
            raise OSError(errno.ENOSYS, "not known for this processor")
        self._calls = calls
        self._context = ctypes.c_ulong(0)
        if _libc.syscall(calls.setup, DEPTH, ctypes.byref(self._context)) != 0:
            raise OSError(ctypes.get_errno(), "io_setup")
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._iocb = _Iocb(opcode=_FDSYNC, flags=_RESFD, result_fd=self.fd)
        self._list = (ctypes.POINTER(_Iocb) * 1)(ctypes.pointer(self._iocb))
        self._events = (_Event * DEPTH)()
        self._waiting: dict[int, Ended] = {}
        self._number = 0

    def begin(self, fd: int, ended: Ended) -> bool:
        """Sync a file; `take` calls `ended`. False: the kernel will not, for this file or just now."""
        self._number += 1
        self._iocb.data, self._iocb.fd = self._number, fd
        if (
            len(self._waiting) == DEPTH
            or _libc.syscall(self._calls.submit, self._context, _ONE, self._list) != 1
        ):
            return False
        self._waiting[self._number] = ended
        return True

    def take(self) -> None:
        """Tell of those that have ended."""
        count = _libc.syscall(self._calls.getevents, self._context, _NONE, _ALL, self._events, None)
        found = [(event.data, -event.result) for event in self._events[: max(0, count)]]
        for number, failed in found:
            self._waiting.pop(number)(failed)

    def close(self) -> None:
        """Wait for those under way; nothing is told of them."""
        _libc.syscall(self._calls.destroy, self._context)
        self._waiting.clear()
        os.close(self.fd)
