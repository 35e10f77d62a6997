"""What a host that is not in sync does at the primary's word, to become so.

From `begin` to the epoch in which it is in sync its copy is of no moment (State.consistent), and says so on
disk. Its frozen views are gone with that: nothing keeps them from then on.
"""

from functools import partial

from holdfast.base.errors import HoldfastError
from holdfast.base.steps import Steps
from holdfast.replicator.bits import pages_of
from holdfast.replicator.intent import FORGET_PAUSE_S
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import Message
from holdfast.replicator.resync import sleep
from holdfast.replicator.settle import settle

LOST_BY_ABSENCE = "the host was out of sync for a while before the snapshot was copied"


class Joiner:
    """The words of one session. Loop thread only."""

    def __init__(self, local: LocalReplica) -> None:
        self._local = local
        self._missing: list[tuple[int, bytes]] = []

    def carry_out(self, message: Message) -> Steps[Message]:
        """Raises HoldfastError UNKNOWN_WORD, ValueError as HoldfastError BAD_WORD, Unavailable, OSError."""
        try:
            return (yield from self._carry_out(message))
        except ValueError as error:
            raise HoldfastError(
                "BAD_WORD", f"the primary's {message.get('do')} cannot be read: {error}"
            ) from error

    def _carry_out(self, message: Message) -> Steps[Message]:
        local, store = self._local, self._local.store
        match message:
            case {"do": "begin", "left": int(left)}:
                for uid in list(store.views):
                    local.views.drop(uid, LOST_BY_ABSENCE)
                yield partial(local.in_pool, partial(store.begin_resync, left))
            case {"do": "changed", "generation": int(generation), "pages": pages}:
                yield from self._changed(generation, pages_of(pages))
            case {"do": "missing", "pages": pages, "last": bool(last)}:
                self._missing += pages_of(pages)
                if last:
                    taken, self._missing = self._missing, []
                    store.missing.replace(taken)
                    yield partial(local.in_pool, store.missing.sync)
            case {"do": "allocated", "offset": int(offset), "length": int(length)}:
                found = yield partial(local.in_pool, partial(_allocated, local, offset, offset + length))
                return {"runs": found}
            case {"do": "whole"}:
                yield from self._whole()
            case _:
                raise HoldfastError("UNKNOWN_WORD", f"this host does not know {message.get('do')!r}.")
        return {}

    def _changed(self, generation: int, pages: list[tuple[int, bytes]]) -> Steps[None]:
        """At once in the open generation, where writes set bits too; the others are files that rest."""
        local, store = self._local, self._local.store
        if generation == store.generation:
            for at, page in pages:
                store.changed.or_page(at, page)
        else:
            yield partial(local.in_pool, partial(store.add_changed, generation, pages))

    def _whole(self) -> Steps[None]:
        """All that was sent is on disk, and so nothing but what is under way is intended any more."""
        local = self._local
        quiet = local.intent.intended(local.order.writing())
        yield from settle(local)
        for regions in local.intent.untouched_parts(quiet):
            local.intent.forget(regions)
            yield sleep(local.loop, FORGET_PAUSE_S)
        # All that was intended was made equal.
        local.store.in_doubt.clear()
        yield partial(local.in_pool, local.store.end_resync)


def _allocated(local: LocalReplica, start: int, end: int) -> list[tuple[int, int]]:
    return list(local.store.data.allocated(start, end))
