"""What a replica is told to be: by its agent in production, by the simulation in `make sim`."""

from dataclasses import dataclass, field

from holdfast.base.limits import SYNC_MAX_BYTES_S
from holdfast.replicator.chores import Snapshots
from holdfast.replicator.following import Role
from holdfast.replicator.pace import NO_LIMITS, Limits


@dataclass(frozen=True)
class Wanted:
    """`members` are the hosts in sync as of `epoch`, this one included if it is; `peers` all others that the
    volume is assigned to.
    """

    role: Role
    epoch: int
    members: frozenset[str]
    peers: tuple[str, ...]
    yield_to: str = ""
    """A planned switch: let go, so that this host can become the primary."""
    needs_mirror: bool = False
    """Acknowledge writes only while another host is in sync."""
    may_be_new: bool = False
    """The volume is still being made, so a copy that never was in sync lacks nothing."""
    accept_half_synced: bool = False
    """An operator has accepted a copy that is the volume of no moment."""
    may_sync: bool = True
    sync_max_bytes_s: int = SYNC_MAX_BYTES_S
    verify_request: int = 0
    verify_rate_bytes_s: int = SYNC_MAX_BYTES_S
    limits: Limits = NO_LIMITS
    """Of what users may ask for."""
    snapshots: Snapshots = field(default_factory=Snapshots)

    @property
    def identity(self) -> object:
        """What only a new role can follow; the rest is followed at once."""
        return self.role, self.epoch, self.members, self.peers, self.accept_half_synced
