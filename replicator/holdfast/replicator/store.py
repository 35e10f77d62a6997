"""One replica's files, opened. Blocking primitives only; who may call them when is `local.py`'s concern.

    data                  the volume's bytes at their own offsets
    intent                regions that may differ after a crash (intent.py)
    changed/<generation>  extents written since that freeze; 0 is the volume's creation
    frozen/<snapshot>.*   frozen views (frozen.py)
    missing, filled       extents not yet hydrated (missing.py)
    state.json            state.py

What opening does, in this order, each durable before the next: views of another boot are dropped;
`changed` generations newer than the state's are folded into it (a freeze that was interrupted);
`intent` is folded into `changed`, so that it under-reports nothing; the state records this boot.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast.base.errors import DataLoss, NotFound, Precondition, StaleEpoch
from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator import frozen, state
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import Files
from holdfast.replicator.frozen import FrozenView
from holdfast.replicator.missing import Missing
from holdfast.replicator.state import State, ViewState

CHANGED = "changed"


def create(files: Files, uid: str, size_bytes: int, boot_id: str, origin_snapshot_uid: str) -> None:
    """Make an empty store. `state.json` is written last: without it there is no store."""
    files.make()
    extents = -(-size_bytes // EXTENT_BYTES)
    files.data("data", size_bytes).close()
    _bits(files, "intent", -(-size_bytes // REGION_BYTES)).close()
    _bits(files, f"{CHANGED}/0", extents).close()
    files.sync_names(CHANGED)
    missing = Missing(files, extents, same_boot=False)
    if origin_snapshot_uid:
        missing.mark_all()
    missing.close()
    files.sync_names()
    fresh = State(uid, size_bytes, 0, 0, boot_id, origin_snapshot_uid)
    files.replace_record(state.NAME, state.encode(fresh))


def exists(files: Files) -> bool:
    return files.read_record(state.NAME) is not None


@dataclass(frozen=True)
class _Prepared:
    view: FrozenView
    changed: Bitmap
    generation: int


class Store:
    """Raises NotFound STORE_ABSENT, DataLoss STORE_DAMAGED, Precondition WRONG_STORE or OSError."""

    def __init__(self, files: Files, uid: str, size_bytes: int, boot_id: str) -> None:
        self.files = files
        self._state_lock = threading.Lock()
        self.state = self._read_state(files, uid, size_bytes)
        self.size_bytes = size_bytes
        self.extents = -(-size_bytes // EXTENT_BYTES)
        self.regions = -(-size_bytes // REGION_BYTES)
        same_boot = self.state.boot_id == boot_id
        self.data = files.data("data", size_bytes)
        self.intent = _bits(files, "intent", self.regions)
        self.missing = Missing(files, self.extents, same_boot)
        self.views: dict[str, FrozenView] = {}
        self._prepared: dict[str, _Prepared] = {}
        self._sealed: list[Bitmap] = []
        self._recover_views(same_boot)
        self.changed = self._recover_changed()
        self._changed_generation = self.state.generation
        self.in_doubt = set(self.intent.set_bits())
        """Regions that may differ from the other host's: intent as it was found."""
        self.update_state(lambda now: replace(now, boot_id=boot_id))

    @staticmethod
    def _read_state(files: Files, uid: str, size_bytes: int) -> State:
        content = files.read_record(state.NAME)
        if content is None:
            raise NotFound("STORE_ABSENT", f"the replica of volume {uid} is not in {files.directory}.")
        found = state.decode(content)
        if (found.uid, found.size_bytes) != (uid, size_bytes):
            raise Precondition(
                "WRONG_STORE",
                f"{files.directory} holds volume {found.uid} of {found.size_bytes} bytes, "
                f"not {uid} of {size_bytes} bytes: it is not opened.",
            )
        return found

    def accept_epoch(self, epoch: int) -> None:
        """Serve in `epoch` from now on, durably. Raises StaleEpoch if this replica knows a newer one."""
        known = self.state.epoch
        if epoch < known:
            raise StaleEpoch(f"volume {self.state.uid} is in epoch {known} or later here, not {epoch}.")
        if epoch > known:
            self.update_state(lambda now: replace(now, epoch=epoch))

    def _recover_views(self, same_boot: bool) -> None:
        if not same_boot:
            lost = "the host restarted before the snapshot was copied"
            for uid in list(self.state.views):
                self.update_state(lambda now, uid=uid: now.without_view(uid, lost))  # type: ignore[misc]
        for uid in frozen.names(self.files) - self.state.views.keys():
            frozen.remove(self.files, uid)
        for uid in self.state.views:
            self.views[uid] = FrozenView(self.files, uid, self.size_bytes, self.extents)

    def _recover_changed(self) -> Bitmap:
        current = self.changed_bitmap(self.state.generation)
        newer = [g for g in self.generations() if g > self.state.generation]
        for generation in newer:
            other = self.changed_bitmap(generation)
            current.or_with(other)
            other.close()
        for region in self.intent.set_bits():
            covered = covering(region * REGION_BYTES, REGION_BYTES, EXTENT_BYTES)
            current.set_range(covered.start, min(covered.stop, self.extents))
        current.sync()
        for generation in newer:
            self.files.remove(f"{CHANGED}/{generation}")
        return current

    def generations(self) -> list[int]:
        return sorted(int(name) for name in self.files.names(CHANGED) if name.isdigit())

    def changed_bitmap(self, generation: int) -> Bitmap:
        return _bits(self.files, f"{CHANGED}/{generation}", self.extents)

    def changed_between(self, first: int, end: int) -> list[tuple[int, int]]:
        """Runs of extents written in generations [first, end), from the files.

        Raises DataLoss GENERATION_ABSENT if one of them is not here: the delta cannot be known.
        """
        present = set(self.generations())
        wanted = range(first, end)
        if not present.issuperset(wanted):
            raise DataLoss(
                "GENERATION_ABSENT",
                f"volume {self.state.uid} has changed-bitmaps {sorted(present)}, not all of {list(wanted)}.",
            )
        united: set[int] = set()
        for generation in wanted:
            bitmap = self.changed_bitmap(generation)
            united.update(bitmap.set_bits())
            bitmap.close()
        return list(runs(sorted(united)))

    def drop_generations_below(self, keep: int) -> None:
        for generation in self.generations():
            if generation < min(keep, self.state.generation):
                self.files.remove(f"{CHANGED}/{generation}")

    def extent_range(self, extent: int) -> tuple[int, int]:
        """(offset, length) in bytes; the last extent may be short."""
        offset = extent * EXTENT_BYTES
        return offset, min(EXTENT_BYTES, self.size_bytes - offset)

    def update_state(self, change: Callable[[State], State]) -> None:
        """Replace the state by `change(state)`; durable on return. Safe from any thread."""
        with self._state_lock:
            new = change(self.state)
            self.files.replace_record(state.NAME, state.encode(new))
            self.state = new

    # A freeze, in four steps (docs/store.md says what a crash after each leaves behind).

    def prepare_view(self, uid: str, generation: int) -> None:
        """Step 1, any thread: the files of a view and of the generation that it opens, empty."""
        self._forget_prepared(uid)
        frozen.remove(self.files, uid)
        self.files.remove(f"{CHANGED}/{generation}")
        view = FrozenView(self.files, uid, self.size_bytes, self.extents)
        self._prepared[uid] = _Prepared(view, self.changed_bitmap(generation), generation)

    def flip(self, uid: str) -> None:
        """Step 2, no write under way, in memory: from here on overwrites copy first."""
        prepared = self._prepared.pop(uid)
        self.missing.copy_into(prepared.view.missing)
        self.views[uid] = prepared.view
        self._sealed.append(self.changed)
        self.changed, self._changed_generation = prepared.changed, prepared.generation

    def record_view(self, uid: str, freeze_time: float) -> None:
        """Step 3, any thread: the freeze survives a crash of the process. Step 4 is a flush."""
        self._seal()
        generation = self._changed_generation
        view = ViewState(generation, freeze_time)
        self.update_state(lambda now: replace(now.with_view(uid, view), generation=generation))

    def abandon_freezes(self) -> None:
        """A freeze was interrupted: whatever was prepared or flipped and not recorded is undone, but a
        generation that was opened stays open.
        """
        for uid in list(self._prepared):
            self._forget_prepared(uid)
            frozen.remove(self.files, uid)
        if self._sealed:
            self._seal()
            self.update_state(lambda now: replace(now, generation=self._changed_generation))
        for uid in self.views.keys() - self.state.views.keys():
            self.drop_view(uid)

    def _seal(self) -> None:
        while self._sealed:
            self._sealed[-1].sync()
            self._sealed.pop().close()
        self.files.sync_names(CHANGED)

    def _forget_prepared(self, uid: str) -> None:
        prepared = self._prepared.pop(uid, None)
        if prepared is not None:
            prepared.view.close()
            prepared.changed.close()

    def open_generation(self, generation: int) -> None:
        """Catch up with the other host's generation; everything written in ours counts as written in it."""
        fresh = self.changed_bitmap(generation)
        fresh.or_with(self.changed)
        fresh.sync()
        self.files.sync_names(CHANGED)
        for skipped in range(self.state.generation + 1, generation):
            between = self.changed_bitmap(skipped)
            between.or_with(self.changed)
            between.sync()
            between.close()
        self._sealed.append(self.changed)
        self.changed, self._changed_generation = fresh, generation
        self._seal()
        self.update_state(lambda now: replace(now, generation=generation))

    def drop_view(self, uid: str, lost: str = "") -> None:
        """State first: files without a state are removed at the next opening."""
        self.update_state(lambda now: now.without_view(uid, lost))
        view = self.views.pop(uid, None)
        if view is not None:
            view.close()
        frozen.remove(self.files, uid)

    def sync_bitmaps(self) -> None:
        self.changed.sync()

    def close(self) -> None:
        for view in self.views.values():
            view.close()
        self.changed.close()
        self.missing.close()
        self.intent.close()
        self.data.close()


def _bits(files: Files, name: str, count: int) -> Bitmap:
    return Bitmap(files.bits(name, Bitmap.bytes_for(count)), count)
