"""Freezing a snapshot on both hosts, at one instant (I-8).

Before the gate closes everything slow is done: both hosts flush and make their files. Inside the gate
nothing touches a disk: writes under way end, both hosts flip in memory, the gate opens. Then the freeze
is recorded and flushed on both, and only then does it count. Wherever it is interrupted, the gate opens,
what was not recorded is undone, and the freeze can be tried again with a generation of its own.

A freeze lives within one session. One that fails after this host flipped ends its session: the alignment
of the next makes generations and views equal again.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Starter, Steps, all_of, starting
from holdfast.replicator.generations import abandon_freezes
from holdfast.replicator.link import Link
from holdfast.replicator.messages import Message
from holdfast.replicator.primary import Primary
from holdfast.replicator.settle import settle
from holdfast.replicator.talk import Talk

log = logging.getLogger(__name__)

DRAIN_MAX_S = 5.0


def freeze(
    loop: Loop, primary: Primary, link: Link, uid: str, wall_time: Callable[[], float] = time.time
) -> Steps[None]:
    """Make the frozen view `uid` on both hosts. Raises Unavailable or OSError if it could not be; try
    again, when the link is up. One at a time: Unavailable BUSY.
    """
    if primary.freezing or not link.up:
        raise Unavailable("BUSY", "the volume is being frozen already, or its mirror is out of reach.")
    local, talk = primary.local, link.talk()
    generation = local.store.generation
    primary.freezing = True
    try:
        if local.views.usable(uid) is not None:
            local.views.drop(uid)
        yield from _freeze(loop, primary, talk, uid, wall_time)
    except (HoldfastError, OSError):
        yield from _undo(primary, uid)
        if local.store.generation != generation and link.is_at(talk):
            link.start_over(f"the freeze of {uid} was given up")
        raise
    finally:
        primary.freezing = False


def _freeze(
    loop: Loop, primary: Primary, talk: Talk, uid: str, wall_time: Callable[[], float]
) -> Steps[None]:
    local, store = primary.local, primary.local.store
    generation = store.generation + 1
    yield _settle_both(primary, talk)
    yield all_of(
        partial(local.in_pool, partial(store.prepare_view, uid, generation)),
        talk.ask({"do": "prepare_view", "uid": uid, "generation": generation}),
    )
    freeze_time = yield from _flip(loop, primary, talk, uid, wall_time)
    recorded: Message = {"do": "record_view", "uid": uid, "freeze_time": freeze_time}
    yield all_of(partial(local.in_pool, partial(store.record_view, uid, freeze_time)), talk.ask(recorded))
    yield _settle_both(primary, talk)


def _flip(loop: Loop, primary: Primary, talk: Talk, uid: str, wall_time: Callable[[], float]) -> Steps[float]:
    """Both hosts change over while no write is under way. Returns the time of the freeze."""
    try:
        drained = yield _drained(loop, primary)
        if not drained:
            raise Unavailable("BUSY", f"writes under way did not end within {DRAIN_MAX_S:.0f} s.")
        talk.check()
        freeze_time = wall_time()
        # Ours first: if the mirror's is lost on the way, ours is undone with it.
        primary.local.store.flip(uid)
        yield talk.ask({"do": "flip", "uid": uid})
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


def _settle_both(primary: Primary, talk: Talk) -> Starter:
    return all_of(starting(settle(primary.local)), talk.ask({"do": "settle"}))
