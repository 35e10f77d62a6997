"""What an export is, as values: what is wanted of a volume's, and what the kernel has of it.

Every path is relative to /sys/kernel/config/target. Names follow from the volume's uid alone, so that
what is ours is known by its name, and a restarted agent finds what its predecessor made:

    core/user_4868/<uid>                     the backstore; this HBA (48h 68h: "Hh") holds all of ours
    iscsi/iqn.2026-11.io.holdfast:<uid>      the target, with one portal group
"""

from dataclasses import dataclass, field
from enum import Enum

from holdfast.base import ids
from holdfast.target.lio_reservations import NO_RESERVATIONS, Reservations

HBA = 4868
CORE = f"core/user_{HBA}"
ISCSI = "iscsi"
LINK = "holdfast"
"""Name of the symbolic links that tie a LUN to its backstore and an ACL to its LUN."""
PATHS = "holdfast paths "
ALIAS = "holdfast epoch "
"""No comma: LIO would take the rest for another value."""


@dataclass(frozen=True)
class Acl:
    """One initiator that may log in: who, and its CHAP user and secret."""

    initiator: str
    chap_user: str
    chap_secret: str = field(repr=False)
    lun: int = 0


@dataclass(frozen=True)
class Export:
    """A volume as this host exports it.

    Without `acls` there is a backstore for a worker to open, and no target. `serve` is False while no
    worker has the ring open: then nothing is added to what is exported.
    """

    volume_uid: str
    size_bytes: int
    portal: str
    """"address:port"; an IPv6 address in brackets."""
    group: int = 1
    """Tag of the portal group: another one on each host."""
    serve: bool = False
    write_cache: bool = True
    acls: tuple[Acl, ...] = ()
    cold_epoch: int = 0
    """The newest epoch that began without what was not flushed. Sessions from before it are ended, once."""

    fenced: bool = False
    """This host may be the primary no more, and cannot ask, or has no worker that stays to say so: its
    sessions end, so that what initiators wait for here they try on another path. (Answered BUSY, they would
    try it here again, for minutes.)
    """

    reserving_epoch: int = 0
    """This host is the primary, in this epoch, and its initiator may reserve the volume; 0: nobody may."""

    paths: str = ""
    """The access states of all paths, as the worker shows them by now (`paths.told`), where the kernel is to
    tell initiators of a change; empty: it is not, or not yet."""

    @property
    def alias(self) -> str:
        """What the portal group's TargetAlias says once that is done; empty if nothing need be."""
        return f"{ALIAS}{self.cold_epoch}" if self.cold_epoch else ""


class Backstore(Enum):
    ABSENT = "absent"
    HALF = "half"
    """Made, not enabled: its maker died. Made anew."""
    ENABLED = "enabled"


@dataclass(frozen=True)
class PresentAcl:
    initiator: str
    chap_user: str
    chap_secret: str = field(repr=False)
    luns: tuple[tuple[int, bool], ...]
    """(number, whether it is linked) of each mapped LUN."""
    nopin: tuple[str, str] = ("", "")
    """Seconds of silence until the initiator is asked, and until it is given up."""


@dataclass(frozen=True)
class Present:
    """What the kernel has of one volume."""

    backstore: Backstore = Backstore.ABSENT
    size_bytes: int = 0
    target: bool = False
    groups: tuple[int, ...] = ()
    enabled: bool = False
    attributes: tuple[tuple[str, str], ...] = ()
    portals: tuple[str, ...] = ()
    lun: bool = False
    linked: bool = False
    acls: tuple[PresentAcl, ...] = ()
    alias: str = ""
    reservations: Reservations = NO_RESERVATIONS
    paths: str = ""
    """What initiators were last told of, of `Export.paths`."""

    @property
    def nothing(self) -> bool:
        return self.backstore is Backstore.ABSENT and not self.target


def backstore_path(volume_uid: str) -> str:
    return f"{CORE}/{volume_uid}"


def target_path(volume_uid: str) -> str:
    return f"{ISCSI}/{ids.target_iqn(volume_uid)}"


def group_path(volume_uid: str, group: int) -> str:
    return f"{target_path(volume_uid)}/tpgt_{group}"


def config_string(volume_uid: str) -> str:
    """dev_config: no colon, no comma, at most 256 bytes."""
    return f"holdfast/{volume_uid}"


def uio_name(volume_uid: str) -> str:
    """What the kernel calls the UIO device (target_core_user.c, tcmu_update_uio_info)."""
    return f"tcm-user/{HBA}/{volume_uid}/{config_string(volume_uid)}"
