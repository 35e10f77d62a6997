"""What a logical unit is, as far as its SCSI commands must know."""

from collections import deque
from dataclasses import dataclass, field, replace

from holdfast.base import ids
from holdfast.base.limits import BLOCK_BYTES, KIB, MIB
from holdfast.target.scsi.status import PATH_STANDBY, PATH_UNAVAILABLE

LOGICAL_BLOCK_BYTES = 512
BLOCKS_PER_PHYSICAL_EXPONENT = 3
"""2**3 logical blocks are one physical block of 4096 bytes."""
UNMAP_GRANULARITY_BLOCKS = BLOCK_BYTES // LOGICAL_BLOCK_BYTES

TRANSFER_MAX_BYTES = 4 * MIB
TRANSFER_OPTIMAL_BYTES = MIB
ZERO_MAX_BYTES = 128 * MIB
"""What one UNMAP may cover: its copies for frozen views must fit an initiator's patience."""
WRITE_SAME_MAX_BYTES = 16 * MIB
"""Less: with anything but zeros, all of it is written, and sent to the other host."""
PREFETCH_MAX_BYTES = 4 * MIB
LOOK_MAX_BYTES = 1024 * MIB
"""How far one GET LBA STATUS looks."""
UNMAP_MAX_DESCRIPTORS = 256
COMPARE_MAX_BYTES = 64 * KIB
PARAMETERS_MAX_BYTES = TRANSFER_MAX_BYTES
"""The longest Data-Out Buffer that is looked at as a whole (VERIFY's; parameter lists are shorter)."""

ACTIVE_OPTIMIZED = 0x0
ACTIVE_NON_OPTIMIZED = 0x1
STANDBY = 0x2
UNAVAILABLE = 0x3
STATES_CHANGED = (0x2A, 0x06)
"""ASYMMETRIC ACCESS STATE CHANGED."""
RESERVATIONS_PREEMPTED = (0x2A, 0x03)
"""All registrations and reservations are gone, not by this initiator's doing."""
POWER_ON = (0x29, 0x00)
"""POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: what was not flushed may be lost."""


@dataclass(frozen=True)
class PortGroup:
    """A target port group: the paths through one host (SPC-4 5.15.2.1)."""

    group: int
    relative_port: int
    state: int = ACTIVE_OPTIMIZED


class UnitAttentions:
    """Conditions that the next command reports instead of being done (SAM-5 5.14).

    The ring does not say from which initiator a command came, so each condition is told once, to whoever
    comes first. With one initiator, which is what a volume has unless `multi_attach` says otherwise, that is
    exact but for its sessions: it may have several, and one is told. Telling a condition several times does
    not help: the same initiator may take them all, and Linux starts its path check anew at each.

    Where there may be several initiators, changed states (2A/06) are told by the kernel, which knows who is
    who (lio_plan.py). Of a lost cache (29/00) everybody must learn, so the agent ends every session at such a
    start, which an initiator cannot overlook.
    """

    MAX = 16

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, int]] = deque(maxlen=self.MAX)

    def establish(self, asc: int, ascq: int) -> None:
        """For example 29h/00h: power on, reset or bus device reset; a lost write cache."""
        if (asc, ascq) not in self.waiting:
            self.waiting.append((asc, ascq))

    def take(self) -> tuple[int, int] | None:
        return self.waiting.popleft() if self.waiting else None


@dataclass
class Unit:
    """One volume as its initiators see it; the same on both hosts but for `here`.

    `groups` are all target port groups, this host's (`here`, an index) among them.
    """

    volume_uid: str
    size_bytes: int
    write_cache: bool = True
    read_only: bool = False
    groups: tuple[PortGroup, ...] = (PortGroup(1, 1),)
    here: int = 0
    reservable: bool = False
    """The kernel carries out commands about reservations; here it is only said that there are such."""
    attentions: UnitAttentions = field(default_factory=UnitAttentions)
    blocks: int = field(init=False)
    """Logical blocks. Here, not a property: every command asks."""
    path_sense: bytes = field(init=False)
    """What a command that needs the active path is refused with here; empty where this path is active."""

    def __post_init__(self) -> None:
        self.blocks = self.size_bytes // LOGICAL_BLOCK_BYTES
        state = self.groups[self.here].state
        self.path_sense = {STANDBY: PATH_STANDBY, UNAVAILABLE: PATH_UNAVAILABLE}.get(state, b"")

    def with_groups(self, groups: tuple[PortGroup, ...], here: int, tell: bool = True) -> "Unit":
        """The unit after a change of roles; the same one if nothing has changed. It shares `attentions`.

        Args:
            tell: establish 2A/06; nobody else does.
        """
        if (groups, here) == (self.groups, self.here):
            return self
        if tell:
            self.attentions.establish(*STATES_CHANGED)
        return replace(self, groups=groups, here=here)

    @property
    def serial(self) -> bytes:
        return self.volume_uid.encode()

    @property
    def naa(self) -> bytes:
        return bytes.fromhex(ids.naa(self.volume_uid))
