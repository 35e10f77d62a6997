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


@dataclass(frozen=True)
class DesiredPeer:
    host_id: str
    address: str
    nbd_port: int


@dataclass(frozen=True)
class DesiredSnapshot:
    """`freeze`: make a frozen view if there is none. Without it, only keep one that there is."""

    uid: str
    freeze: bool
    incremental: bool
    base_generation: int


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
    """`primary` or `mirror`."""
    epoch: int
    may_serve: bool
    """This boot of this host is in sync. If not, the store is opened for nobody."""
    initialized: bool
    """False: make the store if it is absent. True: an absent store is an error."""
    listen_address: str
    nbd_port: int
    peer: DesiredPeer
    snapshots: tuple[DesiredSnapshot, ...] = ()
    keep_generation: int = 0
    origin_snapshot_uid: str = ""
    snapshotters: tuple[tuple[str, int], ...] = ()
    """(address, port) of each live snapshotter."""
    ring: DesiredRing | None = None


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


@dataclass(frozen=True)
class Observed:
    volume_uid: str = ""
    role: str = ""
    epoch: int = 0
    store_open: bool = False
    peer_connected: bool = False
    serving: bool = False
    """Primary: reads and writes are acknowledged now. Mirror: a session of this epoch is open."""
    reason: str = ""
    """One word, empty if all is well: e.g. MIRROR_LOST, STORE_ABSENT, STALE_EPOCH."""
    message: str = ""
    ring_open: bool = False
    snapshots: tuple[ObservedSnapshot, ...] = ()
    hydrate_remaining_bytes: int = 0
    hydrate_total_bytes: int = 0


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
    """Raises ValueError, TypeError or KeyError on anything that `encode` did not write."""
    raw = json.loads(line)
    desired = raw["apply"]
    desired["peer"] = DesiredPeer(**desired["peer"])
    desired["snapshots"] = tuple(DesiredSnapshot(**item) for item in desired["snapshots"])
    desired["snapshotters"] = tuple((address, port) for address, port in desired["snapshotters"])
    desired["ring"] = DesiredRing(**desired["ring"]) if desired["ring"] else None
    return Apply(raw["id"], Desired(**desired))


def decode_answer(line: bytes) -> Answer:
    """Raises ValueError, TypeError or KeyError on anything that `encode` did not write."""
    raw = json.loads(line)
    observed = raw["observed"]
    observed["snapshots"] = tuple(ObservedSnapshot(**item) for item in observed["snapshots"])
    return Answer(raw["id"], Observed(**observed))
