"""LIO's configuration of this host: read from configfs, and changed by the steps of `lio_plan`.

Configfs is written directly, not through rtslib: its user backstore is enabled by its constructor, before
the attributes that must be set first can be, and it reads the tree again at every call. What is written
here is what rtslib reads: `targetcli ls` shows it.

The kernel's configuration is a cache of etcd: rebuilt, never saved. Only what bears our names is looked
at. Any call here may block for as long as the kernel does.
"""

import errno
import logging
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from holdfast.base import ids
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.target import lio_export as at
from holdfast.target.lio_export import Backstore, Export, Present, PresentAcl
from holdfast.target.lio_plan import GROUP_ATTRIBUTES, Kind, Step, answer_everything, reconcile_export
from holdfast.target.lio_reservations import read_reservations
from holdfast.target.lio_sessions import logged_in

log = logging.getLogger(__name__)

CONFIGFS = Path("/sys/kernel/config")
DBROOT = "/var/target"
"""The kernel's own folder, unless it says another."""
MODULES = ("target_core_mod", "target_core_user", "iscsi_target_mod")
MODPROBE_LIMIT_S = 30
RESERVATION_FILES = ("attrib/emulate_pr", "alias", "pr/res_pr_registered_i_pts", "pr/res_holder")
"""Of a backstore; in the order that `read_reservations` takes them."""


class NoLio(HoldfastError):
    """This kernel cannot export volumes. The host can still be a mirror."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "NO_LIO",
            f"This host's kernel cannot export volumes: {detail}. Use a kernel with target_core_user and "
            "iscsi_target_mod (on Debian: linux-image-amd64, not -cloud), load them, and restart the agent.",
        )


class Lio:
    """The target subsystem below `root`, which is /sys/kernel/config/target but in tests."""

    def __init__(self, root: Path = CONFIGFS / "target") -> None:
        self.root = root

    def prepare(self) -> None:
        """Load the modules and make the two folders that everything is in. Raises NoLio. Idempotent."""
        try:
            _load(self.root)
            for path in (at.ISCSI, at.CORE):
                (self.root / path).mkdir(exist_ok=True)
        except subprocess.TimeoutExpired as error:
            raise NoLio(f"{error.cmd[0]} has not ended in {MODPROBE_LIMIT_S} s") from error
        except OSError as error:
            raise NoLio(f"{error.filename or self.root}: {os.strerror(error.errno or errno.EIO)}") from error
        if not (self.root / at.ISCSI / "lio_version").exists():
            raise NoLio("the iSCSI target is not there")
        try:
            (self._written_reservations()).mkdir(exist_ok=True)
        except OSError as error:
            log.warning("no volume of this host can be reserved: %s", error)

    def _written_reservations(self) -> Path:
        """At each change of reservations the kernel writes a file there, or refuses the change."""
        return Path(_text(self.root / "dbroot") or DBROOT) / "pr"

    def volumes(self) -> set[str]:
        """Uids of volumes of which the kernel has anything."""
        found = set(_names(self.root / at.CORE))
        prefix = ids.target_iqn("")
        found |= {name[len(prefix) :] for name in _names(self.root / at.ISCSI) if name.startswith(prefix)}
        return {name for name in found if ids.is_uid(name)}

    def converge(self, volume_uid: str, wanted: Export | None, worker_serves: bool) -> Present:
        """Make the volume's export what is wanted; what there is then.

        Raises Unavailable LIO_FAILED at the first step that fails; the next call goes on from there.
        """
        try:
            present = read(self.root, volume_uid)
        except OSError as error:
            raise Unavailable(
                "LIO_FAILED", f"The export of volume {volume_uid} cannot be read: {error}."
            ) from error
        steps = reconcile_export(volume_uid, wanted, present, worker_serves)
        if steps:
            log.info("volume %s: %d changes to its export, first: %s", volume_uid, len(steps), steps[0])
        for step in steps:
            log.debug("volume %s: %s", volume_uid, step)
            try:
                _do(self.root, step)
            except OSError as error:
                raise Unavailable("LIO_FAILED", f"The kernel refused to {step}: {error.strerror}.") from error
        if not steps:
            return present
        present = read(self.root, volume_uid)
        if present.nothing:
            (self._written_reservations() / f"aptpl_{volume_uid}").unlink(missing_ok=True)
        return present

    def answer_everything(self, volume_uid: str) -> None:
        """Fail what is in flight and what comes, until a worker opens the ring: a step of `converge` that
        goes on elsewhere may wait for that. Nobody may have the ring open. Raises Unavailable LIO_FAILED.
        """
        if _read_backstore(self.root / at.backstore_path(volume_uid))[0] is not Backstore.ENABLED:
            return
        try:
            for step in answer_everything(volume_uid):
                _do(self.root, step)
        except OSError as error:
            raise Unavailable(
                "LIO_FAILED", f"What is in flight to volume {volume_uid} cannot be answered: {error}."
            ) from error

    def logged_in(self, volume_uid: str) -> frozenset[str]:
        """Initiators that have a session to the volume here. Raises Unavailable LIO_FAILED."""
        found = set()
        try:
            for group in (self.root / at.target_path(volume_uid)).glob("tpgt_*"):
                for initiator in _names(group / "acls"):
                    if logged_in(_text(group / "acls" / initiator / "info")):
                        found.add(initiator)
        except OSError as error:
            raise Unavailable(
                "LIO_FAILED", f"The sessions of volume {volume_uid} cannot be read: {error}."
            ) from error
        return frozenset(found)

    def backstore(self, volume_uid: str) -> str:
        """Its directory, for the worker."""
        return str(self.root / at.backstore_path(volume_uid))


def read(root: Path, volume_uid: str) -> Present:
    """What the kernel has of a volume."""
    core = root / at.backstore_path(volume_uid)
    backstore, size_bytes = _read_backstore(core)
    reservations = read_reservations(*(_text(core / name) for name in RESERVATION_FILES))
    target = root / at.target_path(volume_uid)
    if not target.is_dir():
        return Present(backstore, size_bytes, reservations=reservations)
    groups = tuple(sorted(int(name[5:]) for name in _names(target) if name.startswith("tpgt_")))
    if not groups:
        return Present(backstore, size_bytes, target=True, reservations=reservations)
    # One group is all that is ever made here; more are only taken away, one in each call.
    group = target / f"tpgt_{groups[0]}"
    lun = group / "lun" / "lun_0"
    return Present(
        backstore=backstore,
        size_bytes=size_bytes,
        target=True,
        groups=groups[:1],
        enabled=_text(group / "enable") == "1",
        attributes=tuple((name, _text(group / "attrib" / name)) for name in GROUP_ATTRIBUTES),
        portals=tuple(sorted(_names(group / "np"))),
        lun=lun.is_dir(),
        linked=(lun / at.LINK).is_symlink(),
        acls=tuple(_read_acl(group / "acls" / name) for name in sorted(_names(group / "acls"))),
        alias=_text(group / "param" / "TargetAlias"),
        reservations=reservations,
        paths=_text(core / "udev_path").removeprefix(at.PATHS),
    )


def _read_backstore(path: Path) -> tuple[Backstore, int]:
    if not path.is_dir():
        return Backstore.ABSENT, 0
    if _text(path / "enable") != "1":
        return Backstore.HALF, 0
    return Backstore.ENABLED, int(_text(path / "attrib" / "dev_size"))


def _read_acl(path: Path) -> PresentAcl:
    luns = sorted(int(name[4:]) for name in _names(path) if name.startswith("lun_"))
    return PresentAcl(
        initiator=path.name,
        chap_user=_text(path / "auth" / "userid"),
        chap_secret=_text(path / "auth" / "password"),
        luns=tuple((lun, (path / f"lun_{lun}" / at.LINK).is_symlink()) for lun in luns),
        nopin=(_text(path / "attrib" / "nopin_timeout"), _text(path / "attrib" / "nopin_response_timeout")),
    )


def _do(root: Path, step: Step) -> None:
    path = root / step.path
    if step.kind is Kind.MKDIR:
        path.mkdir(exist_ok=True)
    elif step.kind is Kind.WRITE:
        path.write_text(step.value)
    elif step.kind is Kind.LINK:
        path.symlink_to(root / step.value)
    elif step.kind is Kind.UNLINK:
        path.unlink(missing_ok=True)
    else:
        _rmdir(path)


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except FileNotFoundError:
        return


def _load(root: Path) -> None:
    """Modules first: configfs shows the target's folder only to those who mount it afterwards."""
    if (root / at.ISCSI / "lio_version").exists():
        return
    subprocess.run(["modprobe", "-a", *MODULES], capture_output=True, timeout=MODPROBE_LIMIT_S, check=False)
    if not root.is_dir() and root.parent == CONFIGFS and not os.path.ismount(CONFIGFS):
        mount = ["mount", "-t", "configfs", "configfs", str(CONFIGFS)]
        subprocess.run(mount, capture_output=True, timeout=MODPROBE_LIMIT_S, check=False)
    if not root.is_dir():
        raise NoLio(f"{root} is not there")


def _names(path: Path) -> Iterable[str]:
    """Directories below `path`."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _text(path: Path) -> str:
    """A file's content; NULL, as the kernel says for an unset secret, is empty."""
    try:
        # An initiator's name for itself may be anything.
        text = path.read_text(errors="replace").rstrip("\n\0")
    except FileNotFoundError:
        return ""
    return "" if text == "NULL" else text
