"""The frozen views of an open store: copying before a write, reading, dropping.

A copy that fails (no room) costs the view, never the write: the view is lost, with the reason, and the
write goes on. A view is dropped when nothing reads it any more.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

from holdfast.base.loop import Loop
from holdfast.replicator.frozen import FrozenView
from holdfast.replicator.store import Store

Then = Callable[[], None]


class Views:
    """Loop thread only; copies run in the pool."""

    def __init__(self, loop: Loop, store: Store) -> None:
        self._loop = loop
        self._store = store
        self._copying: dict[int, list[Then]] = {}
        self._users: Counter[str] = Counter()
        self._lost: dict[str, str] = {}
        self._unwanted: dict[str, str] = {}
        self.on_lost: Callable[[], None] = lambda: None

    def usable(self, uid: str) -> FrozenView | None:
        """The view, if it is here and good."""
        if uid in self._lost or uid in self._unwanted:
            return None
        return self._store.views.get(uid)

    def lost(self) -> dict[str, str]:
        """Views that are not to be had, and why."""
        return {**self._store.state.lost_views, **self._lost}

    def use(self, uid: str) -> None:
        """Somebody reads it: keep its files."""
        self._users[uid] += 1

    def unuse(self, uid: str) -> None:
        self._users[uid] -= 1
        if self._users[uid] <= 0:
            del self._users[uid]
            if uid in self._unwanted:
                self._drop_now(uid, self._unwanted.pop(uid))

    def drop(self, uid: str, lost: str = "") -> None:
        """Forget a view, now or when its last reader is done."""
        if self._users[uid] > 0:
            self._unwanted[uid] = lost
        else:
            self._drop_now(uid, lost)

    def _drop_now(self, uid: str, lost: str) -> None:
        self._lost.pop(uid, None)
        self._users.pop(uid, None)
        self._store.drop_view(uid, lost)

    def keep_old(self, extents: range, then: Then) -> None:
        """Call `then()` when no good view needs the old content of any of `extents`."""
        busy = [extent for extent in extents if extent in self._copying]
        if busy:
            self._copying[busy[0]].append(partial(self.keep_old, extents, then))
            return
        views = [view for uid, view in self._store.views.items() if uid not in self._lost]
        wanted = {extent for view in views for extent in view.needs_copy(extents)}
        if not wanted:
            then()
            return
        for extent in wanted:
            self._copying[extent] = []
        for view in views:
            self._users[view.uid] += 1

        def end(failures: dict[str, str]) -> None:
            self._lost.update(failures)
            for view in views:
                self.unuse(view.uid)
            woken = [waiter for extent in wanted for waiter in self._copying.pop(extent)]
            if failures:
                self.on_lost()
            then()
            for waiter in woken:
                waiter()

        def broken(error: BaseException) -> None:
            end({view.uid: f"copying before a write failed: {error}" for view in views})

        self._loop.in_pool(partial(self._copy, views, sorted(wanted)), end, broken)

    def _copy(self, views: list[FrozenView], extents: list[int]) -> dict[str, str]:
        """In the pool. Returns {view uid: why it is lost}."""
        failures: dict[str, str] = {}
        for extent in extents:
            content = self._store.data.read(*self._store.extent_range(extent))
            for view in views:
                if view.uid not in failures and view.needs_copy([extent]):
                    try:
                        view.keep(extent, content)
                    except OSError as error:
                        failures[view.uid] = f"no room for the content before a write: {error}"
        return failures
