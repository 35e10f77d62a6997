"""Network namespaces: the lab's own corner of the network, so that two labs never meet."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from holdfast.lab.errors import LabError

_CLONE_NEWNET = 0x40000000
_NAMES = Path("/run/netns")


def exists(name: str) -> bool:
    return (_NAMES / name).exists()


def create(name: str) -> None:
    """Make the namespace with its loopback up; it must not exist."""
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")


def delete(name: str) -> None:
    """Remove the namespace if it is there."""
    if exists(name):
        _ip("netns", "delete", name)


def configure(name: str, device: str, address: str, mtu: int) -> None:
    """Give a device of the namespace its address ("10.77.0.1/24") and bring it up."""
    # A tap drops what its queue cannot hold, and TCP takes that for congestion.
    _ip("-n", name, "link", "set", device, "mtu", str(mtu), "txqueuelen", "10000", "up")
    _ip("-n", name, "address", "add", address, "dev", device)


def inside(name: str, words: list[str]) -> list[str]:
    """The command line that runs `words` in the namespace, as the same process."""
    return ["nsenter", f"--net={_NAMES / name}", "--", *words]


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """This thread is in the namespace meanwhile; sockets made here stay in it for good."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(_NAMES / name, os.O_RDONLY)
    except FileNotFoundError:
        os.close(home)
        raise LabError(f"the lab's network namespace {name} is gone: bring the lab up") from None
    try:
        _setns(there)
        yield
    finally:
        _setns(home)
        os.close(there)
        os.close(home)


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise LabError(f"cannot enter the lab's network: {os.strerror(error)}; the lab needs root")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"'ip {' '.join(words)}' failed: {done.stderr.strip()} (the lab needs root)")
