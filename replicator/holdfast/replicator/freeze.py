"""Freezing a snapshot on both hosts, at one instant (I-8).

Before the gate closes everything slow is done: both hosts flush and make their files. Inside the gate
nothing touches a disk: writes under way end, both hosts flip in memory, the gate opens. Then the freeze
is recorded and flushed on both, and only then does it count. Wherever it is interrupted, the gate opens,
what was not recorded is undone, and the freeze can be tried again with a generation of its own.
"""

import time
from functools import partial

from holdfast.base.errors import Unavailable
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Starter, Steps, all_of, starting
from holdfast.replicator.link import Link
from holdfast.replicator.messages import Message
from holdfast.replicator.primary import Primary
from holdfast.replicator.settle import settle

DRAIN_MAX_S = 5.0


def freeze(loop: Loop, primary: Primary, link: Link, uid: str) -> Steps[None]:
    """Make the frozen view `uid` on both hosts. Raises Unavailable if it could not be; try again."""
    local, store = primary.local, primary.local.store
    generation = store.state.generation + 1
    try:
        yield _settle_both(primary, link)
        yield all_of(
            partial(local.in_pool, partial(store.prepare_view, uid, generation)),
            link.ask({"do": "prepare_view", "uid": uid, "generation": generation}),
        )
        freeze_time = yield from _flip(loop, primary, link, uid)
        recorded: Message = {"do": "record_view", "uid": uid, "freeze_time": freeze_time}
        yield all_of(partial(local.in_pool, partial(store.record_view, uid, freeze_time)), link.ask(recorded))
        yield _settle_both(primary, link)
    except (Unavailable, OSError):
        yield partial(local.in_pool, store.abandon_freezes)
        local.views.drop(uid)
        raise


def _flip(loop: Loop, primary: Primary, link: Link, uid: str) -> Steps[float]:
    """Both hosts change over while no write is under way. Returns the time of the freeze."""
    try:
        drained = yield _drained(loop, primary)
        if not drained:
            raise Unavailable("BUSY", f"writes under way did not end within {DRAIN_MAX_S:.0f} s.")
        freeze_time = time.time()
        # Ours first: if the mirror's is lost on the way, ours is undone with it.
        primary.local.store.flip(uid)
        yield link.ask({"do": "flip", "uid": uid})
        return freeze_time
    finally:
        primary.open_gate()


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


def _settle_both(primary: Primary, link: Link) -> Starter:
    return all_of(starting(settle(primary.local)), link.ask({"do": "settle"}))
