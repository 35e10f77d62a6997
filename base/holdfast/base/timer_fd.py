"""A descriptor that becomes readable at a moment (timerfd_create(2)): Python has it from 3.13 on only.

With it a loop need not look at the clock at every turn: where a look is a system call, as in some virtual
hosts, two of them a turn were a good part of what a small request cost.
"""

import contextlib
import ctypes
import os
import time

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_EXPIRATIONS_BYTES = 8
_NS = 1_000_000_000
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerFd:
    """On CLOCK_BOOTTIME. Raises OSError if the kernel has none to give."""

    def __init__(self) -> None:
        # TFD_NONBLOCK and TFD_CLOEXEC are defined as these.
        self.fd = _libc.timerfd_create(time.CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()

    def set(self, at_s: float) -> None:
        """Readable from `at_s` (seconds on the clock, over 0) on; a moment set before is forgotten."""
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(int(at_s * _NS), _NS)
        if _libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(self._spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def clear(self) -> None:
        """Not readable any more."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, _EXPIRATIONS_BYTES)

    def close(self) -> None:
        os.close(self.fd)
