"""What a replica writes down when an epoch begins for it: pure.

`absent/<host>` tracks what a host that is not in sync lacks. It counts from the epoch in which that host was
last in sync with this one; a joiner that says another epoch has another history, and is compared (I-7).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from holdfast.base.errors import Precondition, StaleEpoch
from holdfast.replicator.state import State


@dataclass(frozen=True)
class Entry:
    """The state of the new epoch, and the `absent` bitmaps to make before it and to drop after it."""

    state: State
    make: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


def check(state: State, epoch: int) -> None:
    """Raises StaleEpoch if this replica has heard of a newer one."""
    if epoch < state.epoch:
        raise StaleEpoch(f"volume {state.uid} is in epoch {state.epoch} or later here, not {epoch}.")


def as_primary(
    state: State,
    epoch: int,
    members: Collection[str],
    peers: Collection[str],
    *,
    may_be_new: bool,
    accept_half_synced: bool,
) -> Entry:
    """Raises StaleEpoch, or Precondition: HALF_SYNCED for a copy that is no volume of any moment, NOT_WHOLE
    for one that never held the volume.
    """
    check(state, epoch)
    if state.synced_epoch == 0 and not (may_be_new or accept_half_synced):
        raise Precondition(
            "NOT_WHOLE",
            f"the copy of volume {state.uid} here was made anew and has never held it: it is not served. "
            "Bring a whole copy back.",
        )
    if not state.consistent and not accept_half_synced:
        raise Precondition(
            "HALF_SYNCED",
            f"the copy of volume {state.uid} here was being made equal to another when that was lost: it is "
            "the volume of no moment, and is not served. Bring a whole copy back.",
        )
    away = [host for host in peers if host not in members]
    make = tuple(host for host in away if host not in state.absent)
    drop = tuple(host for host in state.absent if host not in away)
    absent = {host: left for host, left in state.absent.items() if host not in drop}
    for host in make:
        absent[host] = state.synced_epoch if host in state.members else 0
    entered = _entered(state, epoch, members)
    return Entry(replace(entered, absent=absent, led=True), make, drop)


def as_mirror(state: State, epoch: int, members: Collection[str], may_be_new: bool) -> Entry:
    """In sync: what it tracked of others when it was the primary is of no use any more.

    Raises StaleEpoch, or Precondition NOT_WHOLE for a copy that was made anew, or half replaced, since it
    said that it was whole: the primary leaves it out when it does not answer.
    """
    check(state, epoch)
    # Only while a volume is being made is a copy in sync that never was before: there is nothing in any. (Its
    # epoch may have risen by then: a host of it was replaced.)
    if not state.consistent or (state.synced_epoch == 0 and not may_be_new):
        raise Precondition(
            "NOT_WHOLE",
            f"the copy of volume {state.uid} here is not the one that epoch {epoch} has in sync: it waits to "
            "be brought up to date.",
        )
    return Entry(replace(_entered(state, epoch, members), absent={}, led=False), drop=tuple(state.absent))


def _entered(state: State, epoch: int, members: Collection[str]) -> State:
    return replace(
        state,
        epoch=epoch,
        synced_epoch=epoch,
        members=tuple(sorted(members)),
        consistent=True,
        binding=state.binding if epoch == state.epoch else "",
    )
