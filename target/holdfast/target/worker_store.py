"""The store of a worker's replica: opened, made where it may be, and made anew where it may be thrown away.

Its states are in docs/states/worker.md, with what a process leaves that is killed between two of them.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop
from holdfast.base.steps import Starter
from holdfast.replicator.files import Files
from holdfast.replicator.store import Store, create, exists
from holdfast.target.control import Desired
from holdfast.target.store_folder import half_removed, remove_tree

log = logging.getLogger(__name__)

NEVER_REMOVED = frozenset(("WRONG_STORE",))
"""Another volume's bytes: whoever put them there must say what they are."""


class StoreKeeper:
    """Loop thread only."""

    def __init__(self, loop: Loop, volume_uid: str, directory: Path, boot_id: str) -> None:
        self._loop = loop
        self._uid = volume_uid
        self._directory = directory
        self._boot_id = boot_id
        self.removing = False
        """A copy is being taken away: nothing is opened until that is done."""
        if half_removed(directory).exists():
            # Left by a process that was killed: space, nothing else.
            loop.in_pool(partial(remove_tree, half_removed(directory)), lambda _nothing: None, self._failed)

    def open(self, desired: Desired) -> Store:
        """Raises HoldfastError or OSError if there is no store to be had."""
        files = Files(self._directory)
        if not desired.initialized and not exists(files):
            create(files, self._uid, desired.size_bytes, self._boot_id, desired.origin_snapshot_uid)
        return Store(files, self._uid, desired.size_bytes, self._boot_id)

    def may_remove(self, desired: Desired, error: Exception) -> bool:
        """Whether a store that cannot be opened, for this reason, is to be taken away."""
        reason = error.reason if isinstance(error, HoldfastError) else ""
        return desired.rebuild and not desired.initialized and reason not in NEVER_REMOVED

    def remove(self, then: Callable[[], None], after: Starter | None = None) -> None:
        """Take the store, which is closed, away; `then()` whether that worked or not. `after`: a step to wait
        for first.
        """
        if self.removing:
            return
        self.removing = True
        log.warning("volume %s: throwing its copy here away, to make a new one", self._uid)

        def done(_nothing: None) -> None:
            self.removing = False
            then()

        def failed(error: BaseException) -> None:
            self._failed(error)
            done(None)

        def begin(_result: object) -> None:
            self._loop.in_pool(partial(remove_tree, self._directory), done, failed)

        if after is None:
            begin(None)
        else:
            after(begin)

    def _failed(self, error: BaseException) -> None:
        log.error("volume %s: its old copy cannot be removed: %s", self._uid, error)
