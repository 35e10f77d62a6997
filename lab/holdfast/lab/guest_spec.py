"""What a guest is, apart from whether it runs: written down so that any process can boot it."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from holdfast.lab.errors import LabError

Role = Literal["storage", "compute"]
Filesystem = Literal["ext4", "xfs"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_MIN_MEMORY_MIB = 256
_MAX_DISK_GIB = 64 * 1024


@dataclass(frozen=True)
class GuestSpec:
    """A guest's fixed properties. `disk_gib` 0 means no data disk.

    `faulty_disk`: the data disk loses what was not flushed, and can be broken; see disk_faults.py.
    """

    name: str
    role: Role
    index: int
    memory_mib: int
    disk_gib: int
    filesystem: Filesystem
    faulty_disk: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "host":
            raise LabError(f"'{self.name}' is no guest's name: a letter, then letters, digits, '-'")
        if self.role not in get_args(Role):
            raise LabError(f"role '{self.role}' is not one of {', '.join(get_args(Role))}")
        if self.memory_mib < _MIN_MEMORY_MIB:
            raise LabError(f"{self.memory_mib} MiB is too little memory; {_MIN_MEMORY_MIB} at least")
        if not 0 <= self.disk_gib <= _MAX_DISK_GIB:
            raise LabError(f"a disk of {self.disk_gib} GiB is not between 0 and {_MAX_DISK_GIB}")
        if self.faulty_disk and not self.disk_gib:
            raise LabError(f"guest '{self.name}' has no disk that could be faulty: give disk_gib")
        if self.filesystem not in get_args(Filesystem):
            raise LabError(f"file system '{self.filesystem}' is neither ext4 nor xfs")

    @property
    def initiator(self) -> str:
        """The guest's iSCSI initiator name."""
        return f"iqn.2026-11.io.holdfast.lab:{self.name}"

    def save(self, folder: Path) -> None:
        (folder / "guest.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "GuestSpec":
        return cls(**json.loads((folder / "guest.json").read_text()))
