"""The frozen views of an open store: copying before a write, reading, dropping.

A copy that fails (no room) costs the view, never the write. But the view is lost before the write goes
on, in its files: a process that died in between would otherwise come back to a view with a hole in it.

A view is gone from `store.views` at once when it is dropped; its files are unlinked behind it, and closed
when nobody uses them any more.
"""

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from holdfast.base.loop import Loop
from holdfast.replicator import frozen
from holdfast.replicator.frozen import FrozenView
from holdfast.replicator.serial import Serial
from holdfast.replicator.store import Store

log = logging.getLogger(__name__)

Then = Callable[[], None]
RETRY_S = 5.0


class Views:
    """Loop thread only; copies run in the pool, the rest in `serial`."""

    def __init__(self, loop: Loop, store: Store, serial: Serial) -> None:
        self._loop = loop
        self._store = store
        self._serial = serial
        self._copying: dict[int, list[Then]] = {}
        self._pins: Counter[FrozenView] = Counter()
        self._lost: dict[str, str] = {}
        self.on_lost: Callable[[], None] = lambda: None

    def usable(self, uid: str) -> FrozenView | None:
        """The view, if it is here and good."""
        return self._store.views.get(uid)

    def lost(self) -> dict[str, str]:
        """Views that are not to be had, and why."""
        return {**self._store.state.lost_views, **self._lost}

    def pin(self, view: FrozenView) -> None:
        """Somebody reads its files: keep them open."""
        self._pins[view] += 1

    def unpin(self, view: FrozenView) -> None:
        self._pins[view] -= 1
        if self._pins[view] == 0:
            del self._pins[view]
            if self._store.views.get(view.uid) is not view:
                view.close()

    def drop(self, uid: str, lost: str = "", then: Then = lambda: None) -> None:
        """Forget a view, now; `then()` when its files are gone. With `lost`, say why from now on.

        It is broken first, at once: writes from here on copy nothing for it, so a process that is killed
        before the files are gone must not find it whole again.
        """
        frozen.spoil(self._store.files, uid)
        view = self._store.views.pop(uid, None)
        if view is not None and not self._pins[view]:
            view.close()
        if lost:
            self._lost[uid] = lost
        else:
            self._lost.pop(uid, None)
        self._serial.run(partial(self._store.forget_view, uid, lost), partial(self._dropped, uid, lost, then))

    def _dropped(self, uid: str, lost: str, then: Then, result: object) -> None:
        """A full disk may have no room for the state, but the files are gone, and that is what counts."""
        if isinstance(result, BaseException):
            log.warning("dropping view %s: %s; will try again", uid, result)
            self._loop.call_later(RETRY_S, partial(self._record_again, uid, lost))
        elif lost and self._lost.get(uid) == lost:
            del self._lost[uid]
        then()

    def _record_again(self, uid: str, lost: str) -> None:
        if uid not in self._store.views:
            self.drop(uid, lost)

    def keep_old(self, extents: range, then: Then, failed: Callable[[BaseException], None]) -> None:
        """Call `then()` when no good view needs the old content of any of `extents`, or `failed(error)` if
        that content cannot be read.
        """
        busy = [extent for extent in extents if extent in self._copying]
        if busy:
            self._copying[busy[0]].append(partial(self.keep_old, extents, then, failed))
            return
        views = list(self._store.views.values())
        wanted = sorted({extent for view in views for extent in view.needs_copy(extents)})
        if not wanted:
            then()
            return
        for extent in wanted:
            self._copying[extent] = []
        for view in views:
            self.pin(view)
        end = partial(self._ended, views, wanted)
        self._loop.in_pool(
            partial(self._copy, views, wanted),
            lambda failures: self._copied(views, wanted, failures, partial(end, then)),
            lambda error: end(partial(failed, error)),
        )

    def _copy(self, views: list[FrozenView], extents: list[int]) -> dict[FrozenView, str]:
        """In the pool. Returns {view: why it is lost}."""
        failures: dict[FrozenView, str] = {}
        for extent in extents:
            content = self._store.data.read(*self._store.extent_range(extent))
            for view in views:
                if view not in failures and view.needs_copy([extent]):
                    try:
                        view.keep(extent, content)
                    except OSError as error:
                        failures[view] = f"the content before a write could not be kept: {error}"
        return failures

    def _copied(
        self, views: list[FrozenView], extents: list[int], failures: dict[FrozenView, str], then: Then
    ) -> None:
        """The content is kept: now its bits, then the write. Bits are set here, by one thread."""
        for view in views:
            if view not in failures:
                for extent in view.needs_copy(extents):
                    view.copied.set(extent)
        lost = [view for view in failures if self._store.views.get(view.uid) is view]
        left = len(lost)
        if not lost:
            then()
            return

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                then()

        for view in lost:
            self.drop(view.uid, failures[view], one)
        self.on_lost()

    def _ended(self, views: list[FrozenView], extents: list[int], then: Then) -> None:
        for view in views:
            self.unpin(view)
        woken = [waiter for extent in extents for waiter in self._copying.pop(extent)]
        then()
        for waiter in woken:
            waiter()
