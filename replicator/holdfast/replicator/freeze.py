"""Freezing a snapshot on both hosts, at one instant (I-8).

Before the gate closes everything slow is done: both hosts flush and make their files. Inside the gate
nothing touches a disk: writes under way end, both hosts flip in memory, the gate opens. Then the freeze
is recorded and flushed on both, and only then does it count. Wherever it is interrupted, the gate opens,
what was not recorded is undone, and the freeze can be tried again with a generation of its own.

A freeze lives within one session to each. One that fails after this host flipped ends them: the alignment
of the next makes generations and views equal again. A host that is only joining takes no part: its session
begins anew afterwards, with the generation that was opened.

With a `Gate` (gate.py) it is one of several volumes' that are frozen together: it waits for the others when
all is prepared, and again when this gate is closed and both hosts have flipped.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Starter, Steps, all_of
from holdfast.replicator.gate import Gate
from holdfast.replicator.generations import abandon_freezes
from holdfast.replicator.messages import Message
from holdfast.replicator.partner import Partner, Standing
from holdfast.replicator.primary import Primary
from holdfast.replicator.settle import settle_all
from holdfast.replicator.talk import Talk

log = logging.getLogger(__name__)

DRAIN_MAX_S = 5.0


def freeze(
    loop: Loop,
    primary: Primary,
    uid: str,
    wall_time: Callable[[], float] = time.time,
    gate: Gate | None = None,
) -> Steps[tuple[str, ...]]:
    """Make the frozen view `uid` on every host that is in sync; returns which others that are.

    Raises Unavailable or OSError if it could not be; try again later. One at a time: Unavailable BUSY.
    """
    if primary.freezing or not primary.writes:
        raise Unavailable("BUSY", "the volume is being frozen already, or not all of its hosts are there.")
    if not primary.equal:
        raise Unavailable("BUSY", "its hosts are being made equal.")
    if any(partner.standing is Standing.BOUND for partner in primary.partners):
        raise Unavailable("BUSY", "a host is just coming in sync.")
    local = primary.local
    members = [partner for partner in primary.partners if partner.required]
    talks = [partner.link.talk() for partner in members]
    generation = local.store.generation
    primary.freezing = True
    try:
        if local.views.usable(uid) is not None:
            local.views.drop(uid)
        yield from _freeze(loop, primary, talks, uid, wall_time, gate)
        if [partner for partner in primary.partners if partner.required] != members:
            raise Unavailable("BUSY", "who is in sync has changed meanwhile.")
        return tuple(partner.host_id for partner in members)
    except (HoldfastError, OSError):
        yield from _undo(primary, uid)
        if local.store.generation != generation:
            _restart(members, talks, f"the freeze of {uid} was given up")
        raise
    finally:
        primary.freezing = False
        if local.store.generation != generation:
            for partner in primary.partners:
                if not partner.required:
                    partner.link.start_over("a snapshot was frozen meanwhile")


def _restart(members: Sequence[Partner], talks: Sequence[Talk], why: str) -> None:
    for partner, talk in zip(members, talks, strict=True):
        if partner.link.is_at(talk):
            partner.link.start_over(why)


def _freeze(
    loop: Loop,
    primary: Primary,
    talks: Sequence[Talk],
    uid: str,
    wall_time: Callable[[], float],
    gate: Gate | None,
) -> Steps[None]:
    local, store = primary.local, primary.local.store
    generation = store.generation + 1
    yield settle_all(local, talks)
    yield all_of(
        partial(local.in_pool, partial(store.prepare_view, uid, generation)),
        *(talk.ask({"do": "prepare_view", "uid": uid, "generation": generation}) for talk in talks),
    )
    if gate is not None:
        yield gate.prepared
    freeze_time = yield from _flip(loop, primary, talks, uid, wall_time, gate)
    recorded: Message = {"do": "record_view", "uid": uid, "freeze_time": freeze_time}
    record = partial(local.in_pool, partial(store.record_view, uid, freeze_time))
    yield all_of(record, *(talk.ask(recorded) for talk in talks))
    yield settle_all(local, talks)
    yield partial(local.in_pool, partial(store.count_view, uid))


def _flip(
    loop: Loop,
    primary: Primary,
    talks: Sequence[Talk],
    uid: str,
    wall_time: Callable[[], float],
    gate: Gate | None,
) -> Steps[float]:
    """All hosts change over while no write is under way. Returns the time of the freeze."""
    try:
        drained = yield _drained(loop, primary)
        if not drained:
            raise Unavailable("BUSY", f"writes under way did not end within {DRAIN_MAX_S:.0f} s.")
        for talk in talks:
            talk.check()
        freeze_time = wall_time()
        # Ours first: if another's is lost on the way, ours is undone with it.
        primary.local.store.flip(uid)
        yield all_of(*(talk.ask({"do": "flip", "uid": uid}) for talk in talks))
        if gate is not None:
            yield gate.closed
            for talk in talks:
                talk.check()
        return freeze_time
    finally:
        primary.open_gate()


def _undo(primary: Primary, uid: str) -> Steps[None]:
    """Nothing of the freeze is left here, recorded or not."""
    if primary.local.views.usable(uid) is not None:
        primary.local.views.drop(uid)
    try:
        yield from abandon_freezes(primary.local)
    except OSError as error:
        log.warning("the end of the freeze of %s could not be recorded yet: %s", uid, error)


def _drained(loop: Loop, primary: Primary) -> Starter:
    """A step: close the gate, go on with True when no write is under way, False after DRAIN_MAX_S."""

    def start(resume: Resume) -> None:
        def late() -> None:
            primary.open_gate()
            resume(False)

        timer = loop.call_later(DRAIN_MAX_S, late)

        def drained(_nothing: None) -> None:
            timer.cancel()
            resume(True)

        primary.close_gate(drained)

    return start
