"""A lab: one folder of state, one network namespace, one switch, any number of guests.

Everything that it starts outlives the process that started it and is recorded in the folder, so
that `Lab.open` takes a lab up again and `down` ends it from anywhere, half-made ones included.

    <folder>/lab.json               subnet, namespace, where the disks are
    <folder>/processes/<name>       one record per process (see processes.py)
    <folder>/switch.sock            the switch's control socket
    <folder>/guests/<name>/         guest.json, console.log, boot.env, shared/ (the guest's /lab)
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from holdfast.lab import netns, processes
from holdfast.lab.addresses import MANAGEMENT_HOST, MAX_GUESTS, MTU_BYTES, Subnet
from holdfast.lab.errors import LabError
from holdfast.lab.guest import CommandFailed, Guest
from holdfast.lab.guest_spec import Filesystem, GuestSpec, Role
from holdfast.lab.host_process import HostProcess
from holdfast.lab.switch import Switch, start_switch
from holdfast.lab.switch_daemon import DATA_TAP, MANAGEMENT_TAP
from holdfast.lab.uml import Place, await_ready

DEFAULT_SUBNET = "10.77.0.0/24"
_SWITCH_RECORD = "switch"


def default_folder() -> Path:
    """`$HOLDFAST_LAB_DIR`, or /run/holdfast-lab."""
    return Path(os.environ.get("HOLDFAST_LAB_DIR") or "/run/holdfast-lab")


class Lab:
    """A handle on the lab in one folder, whether or not it is up."""

    def __init__(
        self,
        folder: Path | str,
        *,
        subnet: str = DEFAULT_SUBNET,
        disk_dir: Path | str | None = None,
    ) -> None:
        """Name a lab; nothing happens yet.

        Guests' disks are sparse files in `disk_folder`, a folder of the lab's own in `disk_dir`
        (default /var/tmp: the state folder may be in memory). Other large things of the lab may be
        put there too: `down` removes it.
        """
        self.folder = Path(folder).resolve()
        self.subnet = Subnet.parse(subnet)
        mark = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]
        self.namespace = f"holdfast-{mark}"
        self.disk_folder = Path(disk_dir or "/var/tmp").resolve() / f"holdfast-lab-{mark}"
        self.switch = Switch(self.folder)

    @classmethod
    def open(cls, folder: Path | str) -> "Lab":
        """Take up a lab that is up, perhaps started by another process."""
        path = Path(folder).resolve()
        try:
            saved = json.loads((path / "lab.json").read_text())
        except FileNotFoundError:
            raise LabError(f"there is no lab in {path}: bring one up first") from None
        return cls(path, subnet=saved["subnet"], disk_dir=Path(saved["disks"]).parent)

    @classmethod
    def leftover(cls, folder: Path | str) -> "Lab":
        """What to take down in a folder: a lab, the remains of one, or nothing."""
        try:
            return cls.open(folder)
        except (LabError, ValueError, KeyError):
            return cls(folder)

    @property
    def address(self) -> str:
        """The host's own address on the lab's network."""
        return self.subnet.host

    @property
    def is_up(self) -> bool:
        switch = processes.read_record(self._record(_SWITCH_RECORD))
        return switch is not None and switch.alive()

    # Up and down

    def up(self) -> None:
        """Make the network and start the switch. Remains of a broken lab are removed first."""
        if self.is_up:
            raise LabError(f"the lab in {self.folder} is already up: open it, or take it down")
        Lab.leftover(self.folder).down()
        self._claim_folder()
        with self._locked():
            netns.create(self.namespace)
            start_switch(self.folder, self._record(_SWITCH_RECORD), self.namespace)
            address = f"{self.subnet.host}/{self.subnet.prefix}"
            netns.configure(self.namespace, DATA_TAP, address, MTU_BYTES)
            netns.configure(self.namespace, MANAGEMENT_TAP, f"{MANAGEMENT_HOST}/24", MTU_BYTES)

    def down(self) -> None:
        """End everything that this lab started and remove its folder; again: nothing happens."""
        records = self.folder / "processes"
        if records.exists():
            # The switch last: the others may want to say goodbye.
            for record in sorted(records.iterdir(), key=lambda path: path.name == _SWITCH_RECORD):
                process = processes.read_record(record)
                if process:
                    process.end()
        netns.delete(self.namespace)
        shutil.rmtree(self.disk_folder, ignore_errors=True)
        self._remove_folder()

    def _claim_folder(self) -> None:
        """Make the folder ours: lab.json is the first thing in it, and the last to go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise LabError(f"{self.folder} holds other things: name a folder that is new or empty")
        saved = {"subnet": str(self.subnet.network), "disks": str(self.disk_folder)}
        (self.folder / "lab.json").write_text(json.dumps(saved, indent=1))
        (self.folder / "processes").mkdir()
        (self.folder / "guests").mkdir()
        self.disk_folder.mkdir(parents=True, exist_ok=True)

    def _remove_folder(self) -> None:
        mark = self.folder / "lab.json"
        if not mark.exists():
            return  # not a lab's: whatever is in it stays
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != mark:
                path.unlink()
        mark.unlink()
        self.folder.rmdir()

    def __enter__(self) -> "Lab":
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # Guests

    def start_guest(
        self,
        name: str,
        *,
        role: Role,
        memory_mib: int = 1024,
        disk_gib: int = 0,
        filesystem: Filesystem = "ext4",
        faulty_disk: bool = False,
    ) -> Guest:
        """Make a guest and boot it. A data disk is mounted at /var/lib/holdfast."""
        guest = self.define_guest(
            name,
            role=role,
            memory_mib=memory_mib,
            disk_gib=disk_gib,
            filesystem=filesystem,
            faulty_disk=faulty_disk,
        )
        guest.boot()
        return guest

    def define_guest(
        self,
        name: str,
        *,
        role: Role,
        memory_mib: int = 1024,
        disk_gib: int = 0,
        filesystem: Filesystem = "ext4",
        faulty_disk: bool = False,
    ) -> Guest:
        """Make a guest without switching it on. What a faulty disk is: disk_faults.py."""
        if not self.is_up:
            raise LabError(f"the lab in {self.folder} is not up")
        with self._locked():
            taken = {spec.index for spec in self._specs()}
            index = next(i for i in range(MAX_GUESTS + 1) if i not in taken)
            if index == MAX_GUESTS:
                raise LabError(f"a lab has at most {MAX_GUESTS} guests")
            spec = GuestSpec(name, role, index, memory_mib, disk_gib, filesystem, faulty_disk)
            place = self._place(name)
            if place.folder.exists():
                raise LabError(f"there is already a guest '{name}': boot it")
            place.shared.mkdir(parents=True)
            if disk_gib:
                _make_sparse(place.disk, disk_gib)
            spec.save(place.folder)
        return self.guest(name)

    def boot_guests(self, guests: Sequence[Guest]) -> None:
        """Switch several guests on at once and wait until all are up."""
        booting = [guest.launch() for guest in guests]
        for one in booting:
            await_ready(one)

    def guest(self, name: str) -> Guest:
        """The guest of that name, running or not."""
        place = self._place(name)
        try:
            spec = GuestSpec.load(place.folder)
        except FileNotFoundError:
            names = ", ".join(spec.name for spec in self._specs()) or "none"
            raise LabError(f"there is no guest '{name}'; there are: {names}") from None
        return Guest(spec, place, self.subnet, self.namespace, self.switch)

    def guests(self) -> list[Guest]:
        """All guests, in the order of their addresses."""
        return [self.guest(spec.name) for spec in sorted(self._specs(), key=lambda s: s.index)]

    # The host's own corner of the network

    def host_run(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        timeout_s: float | None = 60,
        input: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host, inside the lab's network, and wait for it.

        `env` replaces the environment. Errors as for `Guest.run`.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        pipe = subprocess.PIPE
        with self.host_popen(words, stdin=stdin, stdout=pipe, stderr=pipe, env=env, cwd=cwd) as process:
            out, err = process.communicate(input.encode() if input else None, timeout_s)
        text, errors = out.decode(errors="replace"), err.decode(errors="replace")
        argv = [os.fspath(word) for word in words]
        if check and process.returncode:
            raise CommandFailed(process.returncode, argv, text, errors)
        return subprocess.CompletedProcess(argv, process.returncode or 0, text, errors)

    def host_popen(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        name: str = "",
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> HostProcess:
        """Start a process on the host, inside the lab's network; `down` ends it if nobody else."""
        argv = [os.fspath(word) for word in words]
        record = self._record(f"{name or Path(argv[0]).name}-{uuid.uuid4().hex[:8]}")
        return HostProcess.start(
            record,
            netns.inside(self.namespace, argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
        )

    def network(self) -> AbstractContextManager[None]:
        """This thread is in the lab's network meanwhile; sockets that it makes stay there."""
        return netns.entered(self.namespace)

    def _specs(self) -> list[GuestSpec]:
        return [GuestSpec.load(path.parent) for path in self.folder.glob("guests/*/guest.json")]

    def _place(self, name: str) -> Place:
        folder = self.folder / "guests" / name
        return Place(
            folder=folder,
            shared=folder / "shared",
            disk=self.disk_folder / f"{name}.img",
            record=self._record(f"guest-{name}"),
        )

    def _record(self, name: str) -> Path:
        return self.folder / "processes" / name

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _make_sparse(path: Path, size_gib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as disk:
        disk.truncate(size_gib * 1024**3)
