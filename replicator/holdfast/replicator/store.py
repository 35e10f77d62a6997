"""One replica's files, opened. Blocking primitives only; who may call them when is `local.py`'s concern.

    data                  the volume's bytes at their own offsets
    intent                regions that may differ after a crash (intent.py)
    changed/<generation>  extents written since that freeze; 0 is the volume's creation
    frozen/<snapshot>.*   frozen views (frozen.py)
    missing, filled       extents not yet hydrated (missing.py)
    absent/<host>         extents that a host which is not in sync lacks (partner.py)
    distrusted            one bit: this disk has failed something
    state.json            state.py

What opening does, in this order, each durable before the next: views of another boot, and those that lack
a file, are dropped; `changed` generations newer than the state's are folded into it (a freeze that was
interrupted); `intent` is folded into `changed` and into every `absent`, so that none under-reports; the
state records this boot.

Two threads meet here. `views`, `changed` and what is said of them below as "loop" belong to the loop's;
what is said to block runs in `LocalReplica.in_pool`, one after another.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from holdfast.base.errors import DataLoss, NotFound, Precondition, Unavailable
from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator import epochs, frozen, state
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import Files, SyncFailed, ThrownAway, no_room
from holdfast.replicator.frozen import FrozenView
from holdfast.replicator.missing import Missing
from holdfast.replicator.state import State, ViewState

log = logging.getLogger(__name__)

CHANGED = "changed"
ABSENT = "absent"
DISTRUSTED = "distrusted"
_LOST_BY_RESTART = "the host restarted before the snapshot was copied"
_LOST_FILES = "its files are not there any more"
_DISTRUSTED = "the disk failed something, and its process ended before it could write down what"


def create(files: Files, uid: str, size_bytes: int, boot_id: str, origin_snapshot_uid: str) -> None:
    """Make an empty store. `state.json` is written last: without it there is no store."""
    files.make()
    extents = -(-size_bytes // EXTENT_BYTES)
    data = files.data("data", size_bytes, make=True)
    data.sync()
    data.close()
    _bits(files, "intent", -(-size_bytes // REGION_BYTES), make=True).close()
    _bits(files, f"{CHANGED}/0", extents, make=True).close()
    files.sync_names(CHANGED)
    Missing.create(files, extents, everything=bool(origin_snapshot_uid))
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
        self.views: dict[str, FrozenView] = {}
        self._prepared: dict[str, _Prepared] = {}
        self.absent: dict[str, Bitmap] = {}
        """What each host that is not in sync lacks. Loop; synced with the other bitmaps."""
        self._entering: Bitmap | None = None
        self._sealed: list[Bitmap] = []
        try:
            self.data = files.data("data", size_bytes)
            self.intent = _bits(files, "intent", self.regions)
            self._distrusted = self._kept_if_room(DISTRUSTED, 1)
            self.missing = Missing(files, self.extents, same_boot)
            self._recover_views(same_boot)
            self.changed = self._recover_changed()
            self._recover_absent()
        except FileNotFoundError as error:
            raise DataLoss(
                "STORE_DAMAGED", f"a file of volume {uid} is not there ({error}): resync this replica."
            ) from error
        except SyncFailed:
            # Opening is tried again, and would find nothing wrong.
            self.distrust()
            raise
        self.generation = self.state.generation
        """Writes are counted in it; `state.generation` follows when that is durable."""
        self.in_doubt = set(self.intent.set_bits())
        """Regions that may differ from other hosts': intent as it was found. A primary hands them on to its
        links, one for each of those hosts.
        """
        self.update_state(lambda now: replace(now, boot_id=boot_id))
        self._recall_distrust()

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

    def distrust(self) -> None:
        """In the page cache at once: the next process of this boot knows, whatever the disk takes."""
        self._distrusted.set(0)

    def _recall_distrust(self) -> None:
        if self._distrusted.get(0) and not self.state.suspect:
            self.state = replace(self.state, suspect=_DISTRUSTED)

    # Epochs. What they mean is in epochs.py; these carry it out, durably. All block.

    def hear_of(self, epoch: int) -> None:
        """Refuse what is older than `epoch` from now on. Raises StaleEpoch if that is older itself."""
        epochs.check(self.state, epoch)
        self.update_state(lambda now: replace(now, epoch=epoch))

    def make_absent(self, host: str, regions: Iterable[int], ranges: Iterable[tuple[int, int]]) -> Bitmap:
        """A bitmap of what `host` may lack: all of `regions`, and the extents of `ranges` (offset, length).
        On disk; it counts once the state lists it.
        """
        self.files.remove(f"{ABSENT}/{host}")
        bitmap = self._kept_if_room(f"{ABSENT}/{host}", self.extents)
        self.cover_regions(bitmap, regions)
        for offset, length in ranges:
            covered = covering(offset, length, EXTENT_BYTES)
            bitmap.set_range(covered.start, covered.stop)
        bitmap.sync()
        self.files.sync_names(ABSENT)
        return bitmap

    def record_entry(self, entry: epochs.Entry) -> None:
        """The epoch has begun here; what it has no use for goes after that."""
        new = entry.state
        self.update_state(
            lambda now: replace(
                now,
                epoch=new.epoch,
                synced_epoch=new.synced_epoch,
                members=new.members,
                absent=new.absent,
                consistent=new.consistent,
                led=new.led,
                binding=new.binding,
                leaving=now.leaving if now.epoch == new.epoch else (),
            )
        )
        for host in entry.drop:
            self.files.remove(f"{ABSENT}/{host}")

    def bind(self, host: str) -> None:
        """From now on only another epoch undoes that nothing is acknowledged without `host`."""
        self.update_state(lambda now: replace(now, binding=host))

    def note_leaving(self, epoch: int, hosts: tuple[str, ...]) -> None:
        """From now on only another epoch undoes that what is acknowledged is on this disk."""
        self.update_state(lambda now: replace(now, leaving=hosts) if now.epoch == epoch else now)

    def doubt(self, regions: Iterable[int], ranges: Iterable[tuple[int, int]]) -> None:
        """Loop: these may differ from other hosts' copies: `regions`, and (offset, length) of `ranges`."""
        self.in_doubt.update(regions)
        for offset, length in ranges:
            self.in_doubt.update(covering(offset, length, REGION_BYTES))

    def track_from(self, host: str, epoch: int) -> None:
        """`absent/<host>` holds what differs from that host's copy as it was in `epoch`, or as it is now."""
        self.update_state(lambda now: replace(now, absent={**now.absent, host: epoch}))

    def begin_resync(self, epoch: int) -> None:
        """Parts of this copy are being replaced: from now on it is no volume, until an epoch makes it one."""
        self.update_state(lambda now: replace(now, synced_epoch=epoch, consistent=False))

    def end_resync(self) -> None:
        """It is whole, and on disk."""
        self.update_state(lambda now: replace(now, consistent=True))

    def _recover_absent(self) -> None:
        known = self.state.absent
        for host in known:
            try:
                bitmap = _bits(self.files, f"{ABSENT}/{host}", self.extents)
            except FileNotFoundError:
                # Lost: that host is compared with us block by block.
                bitmap = self._kept_if_room(f"{ABSENT}/{host}", self.extents)
                self.track_from(host, 0)
            self.cover_regions(bitmap, self.intent.set_bits())
            bitmap.sync()
            self.absent[host] = bitmap
        for name in set(self.files.names(ABSENT)) - known.keys():
            self.files.remove(f"{ABSENT}/{name}")

    def _kept_if_room(self, name: str, count: int) -> Bitmap:
        """A bitmap, made if it is not there; on a full disk in memory, and lost with this process: a host
        that it tracks is compared then. Otherwise nobody would be served.
        """
        try:
            return _bits(self.files, name, count, make=True)
        except OSError as error:
            if not no_room(error):
                raise
            log.warning("no room for %s: it is kept in memory (%s)", name, error)
        self.files.remove(name)
        return Bitmap.in_memory(count)

    def extents_of(self, region: int) -> range:
        """The extents of a region; the last region may be short."""
        extents = covering(region * REGION_BYTES, REGION_BYTES, EXTENT_BYTES)
        return range(extents.start, min(extents.stop, self.extents))

    def cover_regions(self, bitmap: Bitmap, regions: Iterable[int]) -> None:
        """Set the extents of all of `regions`."""
        for region in regions:
            extents = self.extents_of(region)
            bitmap.set_range(extents.start, extents.stop)

    def _recover_views(self, same_boot: bool) -> None:
        recovered = self.state
        for uid in self.state.views:
            if not same_boot:
                recovered = recovered.without_view(uid, _LOST_BY_RESTART)
            elif not frozen.whole(self.files, uid):
                recovered = recovered.without_view(uid, _LOST_FILES)
            else:
                self.views[uid] = FrozenView(self.files, uid, self.size_bytes, self.extents)
        if recovered != self.state:
            self.update_state(lambda _now: recovered)
        for uid in sorted(frozen.names(self.files) - self.views.keys()):
            frozen.remove(self.files, uid)

    def _recover_changed(self) -> Bitmap:
        current = self.changed_bitmap(self.state.generation)
        newer = [g for g in self.generations() if g > self.state.generation]
        for generation in newer:
            # Possibly without its bytes: nothing was written under a generation that is not made whole.
            other = self._made_bitmap(generation)
            current.or_with(other)
            other.close()
        self.cover_regions(current, self.intent.set_bits())
        current.sync()
        for generation in newer:
            self.files.remove(f"{CHANGED}/{generation}")
        return current

    def generations(self) -> list[int]:
        return sorted(int(name) for name in self.files.names(CHANGED) if name.isdigit())

    def changed_bitmap(self, generation: int) -> Bitmap:
        """Raises FileNotFoundError if it is not there."""
        return _bits(self.files, f"{CHANGED}/{generation}", self.extents)

    def _made_bitmap(self, generation: int) -> Bitmap:
        return _bits(self.files, f"{CHANGED}/{generation}", self.extents, make=True)

    def add_changed(self, generation: int, pages: Iterable[tuple[int, bytes]]) -> None:
        """Blocks: set bits of a generation that is over, made if it is not there. ValueError: bad pages."""
        bitmap = self._made_bitmap(generation)
        for at, page in pages:
            bitmap.or_page(at, page)
        bitmap.sync()
        bitmap.close()

    def changed_between(self, first: int, end: int) -> list[tuple[int, int]]:
        """Runs of extents written in generations [first, end), from the files.

        Raises DataLoss GENERATION_ABSENT if one of them is not here: the delta cannot be known.
        """
        return list(runs(self.changed_union(first, end).set_bits()))

    def changed_union(self, first: int, end: int) -> Bitmap:
        """As `changed_between`, as a bitmap in memory. Any thread."""
        united = Bitmap.in_memory(self.extents)
        for generation in range(first, end):
            try:
                bitmap = self.changed_bitmap(generation)
            except FileNotFoundError as error:
                raise DataLoss(
                    "GENERATION_ABSENT",
                    f"volume {self.state.uid} has changed-bitmaps {self.generations()}, "
                    f"not all of [{first}, {end}).",
                ) from error
            united.or_with(bitmap)
            bitmap.close()
        return united

    def drop_generations_below(self, keep: int) -> None:
        for generation in self.generations():
            if generation < min(keep, self.state.generation):
                self.files.remove(f"{CHANGED}/{generation}")

    def extent_range(self, extent: int) -> tuple[int, int]:
        """(offset, length) in bytes; the last extent may be short."""
        offset = extent * EXTENT_BYTES
        return offset, min(EXTENT_BYTES, self.size_bytes - offset)

    def update_state(self, change: Callable[[State], State]) -> None:
        """Replace the state by `change(state)`; durable on return. Safe from any thread. Blocks."""
        with self._state_lock:
            new = change(self.state)
            if new != self.state:
                self.files.replace_record(state.NAME, state.encode(new))
                self.state = new

    # A freeze, in four steps (docs/store.md says what a crash after each leaves behind).

    def prepare_view(self, uid: str, generation: int) -> None:
        """Step 1, blocks: the files of a view and of the generation that it opens, empty."""
        if generation <= self.generation:
            raise Precondition("STALE_GENERATION", f"generation {generation} is open or over.")
        self.discard_prepared()
        frozen.remove(self.files, uid)
        if uid in self.state.views:
            # Or the new files would be taken for those of the old freeze after a crash.
            self.update_state(lambda now: now.without_view(uid))
        view = FrozenView(self.files, uid, self.size_bytes, self.extents, make=True)
        self._prepared[uid] = _Prepared(view, self._made_bitmap(generation), generation)

    def flip(self, uid: str) -> None:
        """Step 2, loop, no write under way, in memory: from here on overwrites copy first."""
        prepared = self._prepared.pop(uid, None)
        if prepared is None or prepared.generation <= self.generation:
            raise Unavailable("NOT_PREPARED", f"nothing is prepared for a freeze of {uid}: start again.")
        self.missing.copy_into(prepared.view.missing)
        self.views[uid] = prepared.view
        self._enter(prepared.changed, prepared.generation)

    def record_view(self, uid: str, freeze_time: float) -> None:
        """Step 3, blocks: the freeze survives a crash of the process. Step 4 is a flush."""
        generation = self.generation
        self._seal()

        def record(now: State) -> State:
            if uid not in self.views:
                raise Unavailable("VIEW_DROPPED", f"the view {uid} was dropped while it was recorded.")
            return replace(now.with_view(uid, ViewState(generation, freeze_time)), generation=generation)

        self.update_state(record)

    def count_view(self, uid: str) -> None:
        """After step 4, blocks, and before anybody is told: a process that begins anew must know that others
        may know of this very view.
        """

        def count(now: State) -> State:
            if uid not in now.views:
                raise Unavailable("VIEW_DROPPED", f"the view {uid} was dropped while it was completed.")
            return now.with_view(uid, replace(now.views[uid], counts=True))

        self.update_state(count)

    def discard_prepared(self) -> None:
        """Step 1 undone, blocks. The generation's file stays: it is empty, and may be another's by now."""
        while self._prepared:
            uid, prepared = self._prepared.popitem()
            prepared.view.close()
            prepared.changed.close()
            frozen.remove(self.files, uid)

    def unrecorded_views(self) -> list[str]:
        """Loop: views that were flipped to and not recorded."""
        return [uid for uid in self.views if uid not in self.state.views]

    def record_generation(self) -> None:
        """Blocks: the generation that was entered is durable, whatever became of its view."""
        generation = self.generation
        self._seal()
        self.update_state(lambda now: replace(now, generation=generation))

    # Catching up with the other host's generation, in three steps; the last is `record_generation`.

    def prepare_generation(self, generation: int) -> None:
        """Blocks: its file, and those of the generations that this host has not seen. What was written in
        ours counts as written in each: one too many is harmless.
        """
        for fresh in range(self.generation + 1, generation + 1):
            bitmap = self._made_bitmap(fresh)
            bitmap.or_with(self.changed)
            bitmap.sync()
            bitmap.close()
        self._entering = self.changed_bitmap(generation)

    def enter_generation(self, generation: int) -> None:
        """Loop: writes are counted in it from here on."""
        fresh, self._entering = self._entering, None
        if fresh is not None and generation > self.generation:
            self._enter(fresh, generation)
        elif fresh is not None:
            fresh.close()

    def _enter(self, fresh: Bitmap, generation: int) -> None:
        self._sealed.append(self.changed)
        self.changed, self.generation = fresh, generation

    def _seal(self) -> None:
        """Generations that are over are durable before the state says that they are."""
        while self._sealed:
            self._sealed[0].sync()
            self._sealed.pop(0).close()
        self.files.sync_names(CHANGED)

    def forget_view(self, uid: str, lost: str) -> None:
        """Blocks. Files first, which needs no room: without them it is no view at the next opening."""
        frozen.remove(self.files, uid)
        self.update_state(lambda now: now.without_view(uid, lost))

    def sync_bitmaps(self) -> None:
        """Blocks: every write that has been applied is in `changed`, and in every `absent`, on disk."""
        for bitmap in [*self._sealed, self.changed, *self.absent.values()]:
            bitmap.sync()

    def throw_away(self) -> None:
        """The copy is given up: nothing is written down for it any more, whoever has yet to. A sequence that
        waits for a drain would else put the old copy's state beside the new one's data.
        """
        self.files = ThrownAway()

    def close(self) -> None:
        for view in self.views.values():
            view.close()
        for prepared in self._prepared.values():
            prepared.view.close()
            prepared.changed.close()
        for bitmap in self._sealed:
            bitmap.close()
        for bitmap in self.absent.values():
            bitmap.close()
        self.changed.close()
        self.missing.close()
        self._distrusted.close()
        self.intent.close()
        self.data.close()


def _bits(files: Files, name: str, count: int, make: bool = False) -> Bitmap:
    return Bitmap(files.bits(name, Bitmap.bytes_for(count), make), count)
