"""From what is wanted and what is there to the steps between: pure, and the same every time.

Order, and what each breach would cost:

- Attributes are set before a backstore is enabled: cmd_time_out cannot be changed once it is exported,
  and a timeout lets the kernel answer for a command that the worker still carries out.
- ACLs and their secrets are complete before the portal group is enabled, and each ACL has its secret
  before its LUN: nobody logs in to something half made.
- After a cold start the portal group is disabled, which ends every session, marked, and enabled again: no
  initiator goes on in a session in which it was promised what is lost. Without the mark a restarted agent
  would end them again; with it written first, one that dies in between never would.
- Reservations of another time as primary are gone, and the mark of this one stands, before the kernel keeps
  any (lio_reservations.py): nobody takes an old one for his.
- Away in the opposite order: ACLs (which ends sessions), group off, portal, LUN, target, backstore. The
  kernel waits in each of these for commands in flight, so a worker must be serving them; where none is,
  the backstore is blocked and its ring reset first, which answers them all. So it is done beside a step
  that waits when its worker stops serving (volume_export.py).
"""

from dataclasses import dataclass
from enum import Enum

from holdfast.target.lio_export import (
    LINK,
    PATHS,
    Acl,
    Backstore,
    Export,
    Present,
    PresentAcl,
    backstore_path,
    config_string,
    group_path,
    target_path,
)
from holdfast.target.lio_reservations import Reservations
from holdfast.target.lio_sessions import NOPIN_RESPONSE_S, NOPIN_S
from holdfast.target.scsi.unit import (
    ACTIVE_NON_OPTIMIZED,
    ACTIVE_OPTIMIZED,
    LOGICAL_BLOCK_BYTES,
    TRANSFER_MAX_BYTES,
)

DATA_AREA_MIB = 64
"""Per device; the kernel's default of 1 GiB lets two devices use up what all may have together."""
QUEUE_FULL_S = 5
"""A command that finds no room in the ring waits so long, then gets TASK SET FULL, and is sent again."""

GROUP_ATTRIBUTES = {
    "authentication": "1",
    "generate_node_acls": "0",
    "cache_dynamic_acls": "0",
    "demo_mode_discovery": "0",
    "demo_mode_write_protect": "1",
}
"""Only who has an ACL and its secret gets in, and a stranger's discovery lists nothing."""


_NOPIN = (str(NOPIN_S), str(NOPIN_RESPONSE_S))


class Kind(Enum):
    MKDIR = "make"
    WRITE = "write"
    LINK = "link"
    UNLINK = "unlink"
    RMDIR = "remove"


@dataclass(frozen=True)
class Step:
    """One change in configfs. `value`: what to write, or where a link leads (relative to the same root)."""

    kind: Kind
    path: str
    value: str = ""
    secret: bool = False

    def __str__(self) -> str:
        value = "***" if self.secret else self.value
        return f"{self.kind.value} {self.path}" + (f" = {value}" if value else "")


def reconcile_export(
    volume_uid: str, wanted: Export | None, present: Present, worker_serves: bool
) -> list[Step]:
    """The steps that make `present` what is `wanted`; none if it is.

    Args:
        worker_serves: a worker has the ring open, or may be opening it: commands in flight will end. As
            long as it has, the backstore stays.
    """
    if wanted is None and worker_serves:
        return _remove_target(volume_uid, present)
    if wanted is None:
        return _remove_all(volume_uid, present, worker_serves)
    fits = present.backstore is Backstore.ENABLED and present.size_bytes == wanted.size_bytes
    steps: list[Step] = []
    if present.backstore is not Backstore.ABSENT and not fits:
        steps += _remove_all(volume_uid, present, worker_serves)
        present = Present()
    if present.backstore is Backstore.ABSENT:
        steps += _make_backstore(wanted)
    if present.reservations.kept and not wanted.reserving_epoch:
        steps.append(_keep_reservations(volume_uid, False))
    if not wanted.acls:
        removal = _remove_target(volume_uid, present)
        if removal and not worker_serves:
            steps += answer_everything(volume_uid)
        return steps + removal
    if wanted.serve and worker_serves:
        return steps + _make_target(wanted, present)
    if wanted.fenced and not worker_serves and present.enabled:
        fence = [Step(Kind.WRITE, f"{group_path(volume_uid, one)}/enable", "0") for one in present.groups]
        return steps + answer_everything(volume_uid) + fence
    return steps + _remove_unwanted_acls(wanted, present, worker_serves)


def _make_backstore(wanted: Export) -> list[Step]:
    at = backstore_path(wanted.volume_uid)
    sectors = TRANSFER_MAX_BYTES // LOGICAL_BLOCK_BYTES
    control = {
        "dev_config": config_string(wanted.volume_uid),
        "dev_size": wanted.size_bytes,
        "hw_block_size": LOGICAL_BLOCK_BYTES,
        "hw_max_sectors": sectors,
        "max_data_area_mb": DATA_AREA_MIB,
        # Never wait for a netlink answer: the wait is host-wide and has no end.
        "nl_reply_supported": -1,
    }
    attributes = {
        "cmd_time_out": 0,
        "qfull_time_out": QUEUE_FULL_S,
        "emulate_write_cache": int(wanted.write_cache),
        "emulate_pr": 0,
    }
    return [
        Step(Kind.MKDIR, at),
        *(Step(Kind.WRITE, f"{at}/control", f"{name}={value}") for name, value in control.items()),
        *(Step(Kind.WRITE, f"{at}/attrib/{name}", str(value)) for name, value in attributes.items()),
        Step(Kind.WRITE, f"{at}/enable", "1"),
        Step(Kind.WRITE, f"{at}/wwn/vpd_unit_serial", wanted.volume_uid),
    ]


def _make_target(wanted: Export, present: Present) -> list[Step]:
    uid = wanted.volume_uid
    at = group_path(uid, wanted.group)
    steps = [
        step
        for group in present.groups
        if group != wanted.group
        for step in _remove_group(uid, group, present)
    ]
    if wanted.group not in present.groups:
        present = Present(
            present.backstore, present.size_bytes, present.target, reservations=present.reservations
        )
    if not present.target:
        steps.append(Step(Kind.MKDIR, target_path(uid)))
    if wanted.group not in present.groups:
        steps.append(Step(Kind.MKDIR, at))
    have = dict(present.attributes)
    steps += [
        Step(Kind.WRITE, f"{at}/attrib/{name}", value)
        for name, value in GROUP_ATTRIBUTES.items()
        if have.get(name) != value
    ]
    if not present.lun:
        steps.append(Step(Kind.MKDIR, f"{at}/lun/lun_0"))
    if not present.linked:
        steps.append(Step(Kind.LINK, f"{at}/lun/lun_0/{LINK}", backstore_path(uid)))
    steps += _reconcile_acls(at, wanted.acls, present.acls)
    steps += [Step(Kind.RMDIR, f"{at}/np/{portal}") for portal in present.portals if portal != wanted.portal]
    if wanted.portal not in present.portals:
        steps.append(Step(Kind.MKDIR, f"{at}/np/{wanted.portal}"))
    return steps + _open(at, wanted, present) + _tell_paths(wanted, present)


def _open(at: str, wanted: Export, present: Present) -> list[Step]:
    """The portal group as it shall be, open or not; closed first where sessions must end."""
    steps: list[Step] = []
    enabled = present.enabled
    cold = wanted.alias not in ("", present.alias)
    stale = present.reservations.stale(wanted.reserving_epoch)
    if enabled and (cold or stale):
        steps.append(Step(Kind.WRITE, f"{at}/enable", "0"))
        enabled = False
    if cold:
        steps.append(Step(Kind.WRITE, f"{at}/param/TargetAlias", wanted.alias))
    if stale:
        steps += _forget_reservations(at, wanted.acls, present.acls)
    if wanted.reserving_epoch:
        steps += _reserve(wanted.volume_uid, present.reservations, wanted.reserving_epoch)
    if enabled and wanted.fenced:
        steps.append(Step(Kind.WRITE, f"{at}/enable", "0"))
    elif not enabled and not wanted.fenced:
        steps.append(Step(Kind.WRITE, f"{at}/enable", "1"))
    return steps


def _tell_paths(wanted: Export, present: Present) -> list[Step]:
    """To another state and back: the kernel then has 2A/06 for every initiator, by its ACL. Both states are
    active ones; what initiators hear when they ask for the states is the worker's.
    """
    if wanted.paths in ("", present.paths):
        return []
    at = backstore_path(wanted.volume_uid)
    state = f"{at}/alua/default_tg_pt_gp/alua_access_state"
    turns = [Step(Kind.WRITE, state, str(value)) for value in (ACTIVE_NON_OPTIMIZED, ACTIVE_OPTIMIZED)]
    return [*turns, Step(Kind.WRITE, f"{at}/udev_path", PATHS + wanted.paths)]


def _reconcile_acls(group: str, wanted: tuple[Acl, ...], present: tuple[PresentAcl, ...]) -> list[Step]:
    """An ACL of another shape is half made: it goes and is made anew. A secret is changed in place."""
    steps: list[Step] = []
    want = {acl.initiator: acl for acl in wanted}
    kept: set[str] = set()
    for found in present:
        acl = want.get(found.initiator)
        if acl is None or found.luns != ((acl.lun, True),):
            steps += _remove_acl(group, found)
            continue
        kept.add(found.initiator)
        if (found.chap_user, found.chap_secret) != (acl.chap_user, acl.chap_secret):
            steps += _write_secret(f"{group}/acls/{acl.initiator}", acl)
        if found.nopin != _NOPIN:
            steps += _write_patience(f"{group}/acls/{acl.initiator}")
    for acl in wanted:
        if acl.initiator not in kept:
            at = f"{group}/acls/{acl.initiator}"
            steps.append(Step(Kind.MKDIR, at))
            steps += _write_secret(at, acl)
            steps += _write_patience(at)
            steps.append(Step(Kind.MKDIR, f"{at}/lun_{acl.lun}"))
            steps.append(Step(Kind.LINK, f"{at}/lun_{acl.lun}/{LINK}", f"{group}/lun/lun_0"))
    return steps


def _forget_reservations(group: str, wanted: tuple[Acl, ...], present: tuple[PresentAcl, ...]) -> list[Step]:
    """By taking the LUN from each ACL that stays, and giving it back. Nobody may be logged in."""
    luns = {acl.initiator: ((acl.lun, True),) for acl in wanted}
    steps: list[Step] = []
    for found in present:
        if found.luns == luns.get(found.initiator):
            link = f"{group}/acls/{found.initiator}/lun_{found.luns[0][0]}/{LINK}"
            steps += [Step(Kind.UNLINK, link), Step(Kind.LINK, link, f"{group}/lun/lun_0")]
    return steps


def _reserve(uid: str, present: Reservations, epoch: int) -> list[Step]:
    """The mark first: what is registered under an older one would be taken for stale."""
    steps: list[Step] = []
    tenure = present.in_epoch(epoch)
    if tenure != present.tenure:
        steps.append(Step(Kind.WRITE, f"{backstore_path(uid)}/alias", tenure.mark))
    if not present.kept:
        steps.append(_keep_reservations(uid, True))
    return steps


def _keep_reservations(uid: str, keep: bool) -> Step:
    return Step(Kind.WRITE, f"{backstore_path(uid)}/attrib/emulate_pr", str(int(keep)))


def _write_secret(at: str, acl: Acl) -> list[Step]:
    return [
        Step(Kind.WRITE, f"{at}/auth/userid", acl.chap_user),
        Step(Kind.WRITE, f"{at}/auth/password", acl.chap_secret, secret=True),
    ]


def _write_patience(at: str) -> list[Step]:
    """How soon an initiator that is cut off is noticed: by itself the kernel takes 45 s."""
    return [
        Step(Kind.WRITE, f"{at}/attrib/nopin_timeout", _NOPIN[0]),
        Step(Kind.WRITE, f"{at}/attrib/nopin_response_timeout", _NOPIN[1]),
    ]


def _remove_unwanted_acls(wanted: Export, present: Present, worker_serves: bool) -> list[Step]:
    """Without a worker nothing new is exported; who must go, goes (its commands are answered first)."""
    keep = {acl.initiator for acl in wanted.acls}
    gone = [one for one in present.acls if one.initiator not in keep]
    steps = [
        step
        for group in present.groups
        for one in gone
        for step in _remove_acl(group_path(wanted.volume_uid, group), one)
    ]
    if steps and not worker_serves:
        return answer_everything(wanted.volume_uid) + steps
    return steps


def _remove_acl(group: str, found: PresentAcl) -> list[Step]:
    at = f"{group}/acls/{found.initiator}"
    steps: list[Step] = []
    for lun, linked in found.luns:
        if linked:
            steps.append(Step(Kind.UNLINK, f"{at}/lun_{lun}/{LINK}"))
        steps.append(Step(Kind.RMDIR, f"{at}/lun_{lun}"))
    return [*steps, Step(Kind.RMDIR, at)]


def _remove_group(uid: str, group: int, present: Present) -> list[Step]:
    at = group_path(uid, group)
    steps = [step for found in present.acls for step in _remove_acl(at, found)]
    if present.enabled:
        steps.append(Step(Kind.WRITE, f"{at}/enable", "0"))
    steps += [Step(Kind.RMDIR, f"{at}/np/{portal}") for portal in present.portals]
    if present.linked:
        steps.append(Step(Kind.UNLINK, f"{at}/lun/lun_0/{LINK}"))
    if present.lun:
        steps.append(Step(Kind.RMDIR, f"{at}/lun/lun_0"))
    return [*steps, Step(Kind.RMDIR, at)]


def _remove_all(uid: str, present: Present, worker_serves: bool) -> list[Step]:
    steps: list[Step] = []
    enabled = present.backstore is Backstore.ENABLED
    if enabled and not worker_serves:
        steps += answer_everything(uid)
    steps += _remove_target(uid, present)
    if present.backstore is not Backstore.ABSENT:
        steps.append(Step(Kind.RMDIR, backstore_path(uid)))
    return steps


def _remove_target(uid: str, present: Present) -> list[Step]:
    steps = [step for group in present.groups for step in _remove_group(uid, group, present)]
    if present.target:
        steps.append(Step(Kind.RMDIR, target_path(uid)))
    return steps


def answer_everything(uid: str) -> list[Step]:
    """Block the device and fail what is in flight, so that nothing waits for a worker that is not there."""
    at = f"{backstore_path(uid)}/action"
    return [Step(Kind.WRITE, f"{at}/block_dev", "1"), Step(Kind.WRITE, f"{at}/reset_ring", "2")]
