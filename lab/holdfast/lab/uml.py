"""A guest as a user-mode Linux process: its command line, its folder, its first sign of life.

What the rest of the lab needs of a machine is small: a process that is its power switch, two
Ethernet ports as inherited descriptors, a disk file, and an agent that says "ready". A guest under
QEMU would be another module with this one's `launch` and `await_ready`.
"""

import os
import select
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from holdfast.lab import addresses
from holdfast.lab.agent_client import AGENT_PORT
from holdfast.lab.errors import LabError
from holdfast.lab.folders import fast_dir
from holdfast.lab.guest_spec import GuestSpec
from holdfast.lab.kernel import need_kernel
from holdfast.lab.processes import Process, identify, launch

SHARED_DIR = "/lab"
_BOOT_LIMIT_S = 120.0
_HIDDEN = ("dev", "proc", "run", "sys")  # of the host's folders, these a guest does not see
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Place:
    """Where a guest's things are on the host."""

    folder: Path  # console.log, boot.env, the kernel's own files
    shared: Path  # the folder that the guest sees as SHARED_DIR
    disk: Path
    record: Path

    @property
    def console(self) -> Path:
        return self.folder / "console.log"


@dataclass
class Booting:
    """A guest that was switched on and has not yet said that it is ready."""

    process: Process
    child: "subprocess.Popen[bytes]"
    ready: int
    place: Place
    name: str


def launch_guest(spec: GuestSpec, place: Place, subnet: addresses.Subnet, ports: tuple[int, int]) -> Booting:
    """Switch a guest on. `ports` are its ends of the two switch ports; they are closed here."""
    kernel = need_kernel()
    for path in (kernel.folder, _HERE, Path(sys.prefix)):
        if path.parts[1] in _HIDDEN:
            raise LabError(f"a guest has a /{path.parts[1]} of its own: move {path} elsewhere")
    environment = _boot_environment(spec, place, subnet, kernel.modules)
    (place.folder / "boot.env").write_text(environment)
    (place.folder / "uml").mkdir(exist_ok=True)
    ready, says_ready = os.pipe()
    inherited = [*ports, says_ready]
    try:
        with open(place.console, "ab") as console:
            child = launch(
                place.record,
                [str(kernel.program), *_kernel_words(spec, place, ports, says_ready)],
                stdout=console,
                stderr=console,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(place.folder),
                    "TMPDIR": str(fast_dir(spec.memory_mib) or place.folder),
                },
                pass_fds=inherited,
            )
    finally:
        for descriptor in inherited:
            os.close(descriptor)
    return Booting(identify(child.pid), child, ready, place, spec.name)


def await_ready(booting: Booting) -> Process:
    """Wait until the guest's agent listens; if it does not, its last words are in the error."""
    deadline_s = time.monotonic() + _BOOT_LIMIT_S
    said = b""
    try:
        while b"ready" not in said:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([booting.ready], [], [], left_s)[0]:
                raise _failure(booting, f"was not up after {_BOOT_LIMIT_S:.0f} s")
            piece = os.read(booting.ready, 100)
            if not piece:
                raise _failure(booting, "ended while it booted")
            said += piece
    finally:
        os.close(booting.ready)
    return booting.process


def _failure(booting: Booting, what: str) -> LabError:
    booting.process.end()
    tail = "\n".join(booting.place.console.read_text(errors="replace").splitlines()[-12:])
    return LabError(
        f"guest '{booting.name}' {what}. Its console ({booting.place.console}) ends with:\n{tail}\n"
        "If user-mode Linux does not run on this processor or in this sandbox, use another machine:"
        " guests under QEMU are not built yet."
    )


def _kernel_words(spec: GuestSpec, place: Place, ports: tuple[int, int], says_ready: int) -> list[str]:
    words = [f"mem={spec.memory_mib}M", "seccomp=on", "rootfstype=hostfs", "hostfs=/", "ro"]
    words += [f"init={_HERE}/guest_init.sh", f"HF_BOOT={place.folder}", "net.ifnames=0", "quiet"]
    words += [f"uml_dir={place.folder}/uml/", "umid=guest", "panic=-1"]
    words += ["con=null", "con0=null,fd:1", "ssl=null", f"ssl0=null,fd:{says_ready}"]
    for segment, port in enumerate(ports):
        mac = addresses.hardware(spec.index, segment)
        mtu = addresses.MTU_BYTES
        words.append(f"vec{segment}:transport=fd,fd={port},mtu={mtu},mac={mac}")
    if spec.disk_gib:
        words.append(f"ubda={place.disk}")
    for word in words:
        if any(character.isspace() for character in word):
            raise LabError(f"the kernel takes no spaces: move the lab or the code from '{word}'")
    return words


def _boot_environment(spec: GuestSpec, place: Place, subnet: addresses.Subnet, modules: Path) -> str:
    """The guest's settings, for the init script to read as shell text."""
    settings = {
        "HF_NAME": spec.name,
        "HF_ROLE": spec.role,
        "HF_ADDRESS": subnet.guest(spec.index),
        "HF_PREFIX": str(subnet.prefix),
        "HF_HOST": subnet.host,
        "HF_MANAGEMENT": addresses.management(spec.index),
        "HF_PORT": str(AGENT_PORT),
        "HF_MTU": str(addresses.MTU_BYTES),
        "HF_INITIATOR": spec.initiator,
        "HF_DISK": spec.filesystem if spec.disk_gib else "",
        "HF_FAULTY_DISK": "yes" if spec.faulty_disk else "",
        "HF_MODULES": str(modules),
        "HF_SHARED": str(place.shared),
        "HF_PYTHON": sys.executable,
        "HF_AGENT": str(_HERE / "guest_agent.py"),
        "HF_INIT": str(_HERE / "guest_init.sh"),
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
