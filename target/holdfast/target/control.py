"""What an agent tells a worker, and what the worker answers: JSON lines over a Unix socket.

    agent  -> worker   {"id": 7, "apply": Desired}
    worker -> agent    {"id": 7, "observed": Observed}
    worker -> agent    {"id": 0, "observed": Observed}      whenever it changes

`apply` is the only call and is idempotent: the agent sends all that the worker must know, the worker
converges and says what is. An agent that restarts connects and applies again; a worker outlives it.
Several connections may be open; each gets its own answers and all changes.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast.base.limits import SYNC_MAX_BYTES_S

_T = TypeVar("_T")


@dataclass(frozen=True)
class DesiredPeer:
    """Another host that the volume is assigned to."""

    host_id: str
    address: str
    nbd_port: int
    portal_group: int = 0
    """The tag of its portal group: what initiators see of it."""
    in_sync: bool = False


@dataclass(frozen=True)
class DesiredGate:
    """Freeze it together with other volumes: how far that is. `step`: prepare, close or open."""

    attempt: int
    step: str
    token: str = ""
    """With open: the closing that it is for."""


@dataclass(frozen=True)
class DesiredSnapshot:
    """`freeze`: make a frozen view if there is none. Without it, only keep one that there is."""

    uid: str
    freeze: bool
    incremental: bool
    base_generation: int
    gate: DesiredGate | None = None


@dataclass(frozen=True)
class DesiredRing:
    """A TCMU backstore that this worker serves: its configfs directory, and its UIO device's name."""

    configfs: str
    uio: str


@dataclass(frozen=True)
class Desired:
    volume_uid: str
    size_bytes: int
    role: str
    """`primary`, `mirror` (in sync), or `joiner`: not in sync, or in another boot than the one that is."""
    epoch: int
    members: tuple[str, ...]
    """The hosts that are in sync, this one included if it is."""
    primary_host_id: str
    initialized: bool
    """False: make the store if it is absent. True: an absent store is an error."""
    listen_address: str
    nbd_port: int
    peers: tuple[DesiredPeer, ...] = ()
    portal_group: int = 1
    yield_to: str = ""
    """Primary: let go, so that this member can be made the primary."""
    needs_mirror: bool = False
    """Acknowledge writes only while another host is in sync."""
    cold_epoch: int = 0
    """The newest epoch that began without what had not been flushed; initiators are told once."""
    accept_half_synced: bool = False
    rebuild: bool = False
    """Joiner: if the copy here is not to be trusted, throw it away and make a new one."""
    may_sync: bool = True
    """Primary: joiners may be brought up to date now. Joiner: this copy may be. If not, it waits."""
    sync_max_bytes_s: int = SYNC_MAX_BYTES_S
    verify_request: int = 0
    """The number of the newest comparison that was asked for; 0: none."""
    verify_rate_bytes_s: int = 0
    limit_iops: int = 0
    """Of what initiators may ask for, as `limit_bytes_s` is; 0: none."""
    limit_bytes_s: int = 0
    kernel_tells_paths: bool = False
    """Of changed access states the kernel tells each initiator: there may be several."""
    reserved_since: int = 0
    """Primary: the epoch since which the kernel here keeps reservations; older ones are gone, and initiators
    are told so once. 0: it keeps none, or that is not known."""
    snapshots: tuple[DesiredSnapshot, ...] = ()
    keep_generation: int = 0
    origin_snapshot_uid: str = ""
    snapshotters: tuple[tuple[str, int], ...] = ()
    """(address, port) of each live snapshotter."""
    ring: DesiredRing | None = None


@dataclass(frozen=True)
class ObservedGate:
    """`state`: busy, prepared, closed, frozen, or failed and why, one sentence."""

    attempt: int
    state: str
    token: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ObservedSnapshot:
    uid: str
    frozen: bool
    """A good frozen view is here (on a mirror too)."""
    generation: int = 0
    """The `changed` generation that its freeze opened."""
    freeze_time: float = 0.0
    """Unix seconds."""
    failed: str = ""
    """Why there is and will be no frozen view here, one sentence."""
    also_on: tuple[str, ...] = ()
    """Primary: other hosts that hold it too."""
    gate: ObservedGate | None = None
    """Primary, of a group: how this gate stands."""


@dataclass(frozen=True)
class ObservedSync:
    """A joiner that is being brought up to date, seen from the primary."""

    host_id: str
    remaining_bytes: int
    total_bytes: int
    rate_bytes_s: int


@dataclass(frozen=True)
class ObservedVerify:
    """The comparison `request`; `failed` says why it ended early, one sentence."""

    request: int
    running: bool
    done_bytes: int = 0
    total_bytes: int = 0
    differing_bytes: int = 0
    repaired_bytes: int = 0
    failed: str = ""


@dataclass(frozen=True)
class Observed:
    """What a worker says of itself. What it *wants* is for its agent to make true in etcd (membership.py)."""

    volume_uid: str = ""
    role: str = ""
    epoch: int = 0
    store_open: bool = False
    peer_connected: bool = False
    serving: bool = False
    """Primary: reads and writes are acknowledged now. Mirror: a session of this epoch is open."""
    reason: str = ""
    """One word, empty if all is well: e.g. DISK_FAILED, STORE_ABSENT, STALE_EPOCH."""
    message: str = ""
    ring_open: bool = False
    snapshots: tuple[ObservedSnapshot, ...] = ()
    hydrate_remaining_bytes: int = 0
    hydrate_total_bytes: int = 0
    hydrate_rate_bytes_s: int = 0
    hydrate_reason: str = ""
    """One word, empty if all is well: what keeps it from its origin. It serves all the same."""
    hydrate_message: str = ""
    wants_leave_out: tuple[str, ...] = ()
    """Primary: these are lost. Nothing is acknowledged until the record says so."""
    wants_join: str = ""
    """Primary: this host has everything, in this boot."""
    wants_join_boot: str = ""
    yielded: bool = False
    """Primary: nothing is under way, and nothing will be begun in this epoch."""
    wants_resign: bool = False
    """Primary: this disk failed, and a mirror is in sync."""
    heirs: tuple[str, ...] = ()
    """Primary that wants to resign: members that it has just heard of."""
    gives_up: bool = False
    """Primary: it wants to resign, and cannot tell whether that mirror lives."""
    may_take_over: bool = False
    """Mirror: the last beacon that it answered has expired, with a margin (I-3)."""
    standby_io_age_s: float = -1.0
    """Primary: seconds since a mirror last refused an initiator's I/O; -1: never, or long ago."""
    suspect: bool = False
    """Nothing that is stored here is to be trusted."""
    consistent: bool = False
    """What is stored here is the volume at some moment: no resync has made part of it new."""
    store_empty: bool = True
    """This copy never was in sync: it holds nothing."""
    syncs: tuple[ObservedSync, ...] = ()
    joining: tuple[str, ...] = ()
    """Primary: joiners whose session is up, also those that wait for their turn to be brought up to date."""
    syncable: tuple[str, ...] = ()
    """Primary: those of `joining` whose hosts let them be brought up to date, or that already are being."""
    left_bytes: int = -1
    """Joiner: what its copy lacks, as its primary last said; -1: it is not being brought up to date."""
    bound: tuple[str, ...] = ()
    """Primary: joiners that lack nothing; that is being recorded."""
    verify: ObservedVerify | None = None


@dataclass(frozen=True)
class Apply:
    id: int
    apply: Desired


@dataclass(frozen=True)
class Answer:
    id: int
    observed: Observed


def encode(message: Apply | Answer) -> bytes:
    return json.dumps(dataclasses.asdict(message), separators=(",", ":")).encode() + b"\n"


def decode_apply(line: bytes) -> Apply:
    """Fields that are not known are left out, and those that are not there are as by default: an agent may
    speak to a worker of other code, until it has replaced it.

    Raises ValueError, TypeError or KeyError on what no `encode` wrote.
    """
    raw = json.loads(line)
    desired = raw["apply"]
    desired["members"] = tuple(desired["members"])
    desired["peers"] = tuple(_made(DesiredPeer, item) for item in desired["peers"])
    desired["snapshots"] = tuple(_desired_snapshot(item) for item in desired["snapshots"])
    desired["snapshotters"] = tuple((address, port) for address, port in desired["snapshotters"])
    desired["ring"] = _made(DesiredRing, desired["ring"]) if desired["ring"] else None
    return Apply(raw["id"], _made(Desired, desired))


def decode_answer(line: bytes) -> Answer:
    """As `decode_apply`."""
    raw = json.loads(line)
    observed = raw["observed"]
    observed["snapshots"] = tuple(_observed_snapshot(item) for item in observed["snapshots"])
    observed["wants_leave_out"] = tuple(observed["wants_leave_out"])
    # A worker of older code does not know that joiners wait for turns of their own.
    observed.setdefault("syncable", observed.get("joining", ()))
    for name in ("heirs", "joining", "syncable", "bound"):
        observed[name] = tuple(observed.get(name, ()))
    observed["syncs"] = tuple(_made(ObservedSync, item) for item in observed["syncs"])
    observed["verify"] = _made(ObservedVerify, observed["verify"]) if observed["verify"] else None
    return Answer(raw["id"], _made(Observed, observed))


def _made(kind: type[_T], item: dict[str, Any]) -> _T:
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in item.items() if name in known})


def _desired_snapshot(item: dict[str, Any]) -> DesiredSnapshot:
    gate = item.get("gate")
    return _made(DesiredSnapshot, {**item, "gate": _made(DesiredGate, gate) if gate else None})


def _observed_snapshot(item: dict[str, Any]) -> ObservedSnapshot:
    gate = item.get("gate")
    made = _made(ObservedGate, gate) if gate else None
    return _made(ObservedSnapshot, {**item, "also_on": tuple(item["also_on"]), "gate": made})
