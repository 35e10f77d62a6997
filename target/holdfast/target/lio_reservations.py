"""Persistent reservations, which the kernel keeps (target_core_pr.c): when it may, and since when. Pure.

They live in one host's kernel and do not move with the volume. So:

- Only the primary's kernel keeps any (`emulate_pr`), and only for a volume that one initiator at most may
  attach: whom they would keep out cannot log in. Elsewhere every such command is refused as unknown.
- A new primary begins with none, and its worker tells the initiator so (2A/03 RESERVATIONS PREEMPTED), as a
  CLEAR by somebody else would.
- What a former primary has left is thrown away, before it may keep any again: taking the LUN from its ACLs
  makes the kernel forget them (core_disable_device_list_for_node). Sessions end first, so that nobody finds
  the unit gone.

Whether what is there is of this host's present time as primary, a mark says that stands in the kernel beside
it: the epoch in which that time began, and the newest that was seen. An agent that was away for more than
one change of the epoch cannot know whether another host was the primary in between, and throws it away.
"""

import re
from dataclasses import dataclass

_MARK = re.compile(r"holdfast reservations since epoch (\d+) seen in epoch (\d+)")
_NOBODY = ("No SPC-", "SPC_RESERVATIONS_DISABLED")
"""What `pr/res_holder` begins with where nobody holds a reservation of either kind, or none is kept."""
_REGISTERED = "Key: 0x"
"""In each line of `pr/res_pr_registered_i_pts` that names a registration."""


@dataclass(frozen=True)
class Tenure:
    """This host is the primary since the epoch `since`, and still was in the epoch `seen`."""

    since: int
    seen: int

    @property
    def mark(self) -> str:
        return f"holdfast reservations since epoch {self.since} seen in epoch {self.seen}"


NEVER = Tenure(0, 0)


@dataclass(frozen=True)
class Reservations:
    """What one host's kernel has of them, for one volume."""

    kept: bool = False
    """Commands about them are carried out, and they bind."""
    found: bool = False
    """Somebody is registered, or holds one."""
    tenure: Tenure = NEVER

    def in_epoch(self, epoch: int) -> Tenure:
        """The tenure that this host is in as the primary of `epoch`.

        An epoch ends by one transaction. So two that follow each other, with this host as the primary of
        both, had no other in between; more is not known.
        """
        known = self.tenure.seen <= epoch <= self.tenure.seen + 1 and self.tenure.since > 0
        return Tenure(self.tenure.since if known else epoch, epoch)

    def stale(self, epoch: int) -> bool:
        """What is found is not of the tenure that goes on in `epoch`; 0: in none."""
        return self.found and (epoch == 0 or self.in_epoch(epoch).since != self.tenure.since)


NO_RESERVATIONS = Reservations()


def read_reservations(emulate_pr: str, alias: str, registered: str, holder: str) -> Reservations:
    """From the texts of a backstore's files: `attrib/emulate_pr`, `alias`, `pr/res_pr_registered_i_pts` and
    `pr/res_holder` (empty where there is no such file).
    """
    mark = _MARK.fullmatch(alias.strip())
    held = bool(holder.strip()) and not holder.startswith(_NOBODY)
    return Reservations(
        kept=emulate_pr.strip() == "1",
        found=_REGISTERED in registered or held,
        tenure=Tenure(int(mark[1]), int(mark[2])) if mark else NEVER,
    )
