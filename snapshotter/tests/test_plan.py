"""The plan and the draft, against sets."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.extents import runs
from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter import checkpoint, plan
from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.checkpoint import Counters
from holdfast.snapshotter.draft import Draft, Outcome, Segment
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry, Shard

END = 60
SETS = st.sets(st.integers(0, END - 1))
UID = "a" * 24


def as_runs(numbers: set[int]) -> plan.Runs:
    return list(runs(sorted(numbers)))


def as_set(found: plan.Runs) -> set[int]:
    assert all(first < end for first, end in found)
    assert all(left[1] < right[0] for left, right in pairwise(found)), "they touch"
    return {number for first, end in found for number in range(first, end)}


@given(SETS, SETS)
def test_arithmetic_of_runs(left: set[int], right: set[int]) -> None:
    assert as_set(plan.intersect(as_runs(left), as_runs(right))) == left & right
    assert as_set(plan.subtract(as_runs(left), as_runs(right))) == left - right
    assert as_set(plan.clip(as_runs(left), 10, 20)) == left & set(range(10, 20))


@given(SETS, SETS, st.booleans())
def test_a_plan(changed: set[int], data: set[int], incremental: bool) -> None:
    made = plan.plan_window(0, END, as_runs(changed) if incremental else None, as_runs(data))
    candidates = changed if incremental else set(range(END))
    assert as_set(made.read) == candidates & data
    assert as_set(made.zero) == (changed - data if incremental else set())
    assert made.read_extents == len(candidates & data)


@given(SETS, SETS, st.integers(1, 12))
def test_batches_are_the_plan_in_order(changed: set[int], data: set[int], most: int) -> None:
    made = plan.plan_window(0, END, as_runs(changed), as_runs(data))
    at = 0
    read: set[int] = set()
    zero: set[int] = set()
    for batch in plan.batches(made, most):
        assert batch.read_extents <= most
        for first, end in sorted([*batch.read, *batch.zero]):
            assert at <= first < end <= batch.end
        read |= {n for first, end in batch.read for n in range(first, end)}
        zero |= {n for first, end in batch.zero for n in range(first, end)}
        at = batch.end
    assert (at, read, zero) == (END, changed & data, changed - data)


@given(st.integers(1, 1 << 32))
def test_windows_cover_a_volume(blocks: int) -> None:
    size_bytes = min(blocks, 1 << 26) * 4096
    window = plan.WINDOW_SHARDS * SHARD_EXTENTS
    at = 0
    for stride in plan.strides(size_bytes):
        assert stride[0] == at
        for first, end in plan.windows_of(*stride):
            assert first == at < end
            assert first // window == (end - 1) // window
            at = end
        assert at == stride[1]
    assert at == -(-size_bytes // EXTENT_BYTES)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3 * EXTENT_BYTES)), max_size=8))
def test_extents_that_bytes_touch(parts: list[tuple[int, int]]) -> None:
    at, byte_runs, expected = 0, [], set()
    for gap, length in parts:
        at += gap * 4096
        byte_runs.append((at, length))
        expected |= set(range(at // EXTENT_BYTES, -(-(at + length) // EXTENT_BYTES))) if length else set()
        at += length
    assert as_set(plan.touched(byte_runs)) == expected


# The draft. Extents near the borders of the first shards, so that several shards are in play.

PLACES = [shard * SHARD_EXTENTS + n for shard in range(4) for n in (0, 1, 2, SHARD_EXTENTS - 1)]
TOTAL = 4 * SHARD_EXTENTS


def entry(extent: int, version: int) -> Entry:
    return Entry(StoredObject(f"pack-{version}", 1 << 30), extent, 1, 0, bytes([version]) * 32)


class Index:
    """Index objects in memory, and drafts that read them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def load(self, ref: ShardRef) -> Shard:
        return shards.decode(self.objects[ref.where.name][ref.offset :][: ref.length], ref.where.name)

    def store(self, draft: Draft, name: str) -> None:
        if draft.waiting_bytes:
            data = draft.waiting_object()
            self.objects[name] = data
            draft.stored(StoredObject(name, len(data)))

    def finished(self, draft: Draft, name: str) -> tuple[ShardRef, ...]:
        draft.finish()
        self.store(draft, name)
        return draft.refs()

    def content(self, refs: tuple[ShardRef, ...]) -> dict[int, Entry]:
        return {extent: one for ref in refs for extent, one in self.load(ref).entries().items()}


CHANGES = st.dictionaries(st.sampled_from(PLACES), st.booleans())


def segments(changes: dict[int, bool], version: int, cuts: set[int]) -> list[Segment]:
    """Each change by itself; cut into segments before the extents of `cuts`."""
    made: list[Segment] = []
    outcomes: list[Outcome] = []
    for extent in sorted(changes):
        if extent in cuts and outcomes:
            made.append(Segment(outcomes, extent))
            outcomes = []
        outcomes.append(Outcome(extent, extent + 1, entry(extent, version) if changes[extent] else None))
    return [*made, Segment(outcomes, TOTAL)]


@given(CHANGES, CHANGES, st.sets(st.sampled_from(PLACES)), st.integers(0, 20), st.booleans())
def test_a_draft_interrupted_anywhere_becomes_the_same(
    first: dict[int, bool], second: dict[int, bool], cuts: set[int], stop_after: int, store_early: bool
) -> None:
    index = Index()
    draft = Draft((), index.load)
    for segment in segments(first, 1, set()):
        draft.apply(segment)
    base = index.finished(draft, "base")
    expected = {extent: entry(extent, 1) for extent, stored in first.items() if stored}
    assert index.content(base) == expected

    draft = Draft(base, index.load)
    for number, segment in enumerate(segments(second, 2, cuts)):
        draft.apply(segment)
        if store_early:
            index.store(draft, f"index-{number}")
        if number == stop_after:
            made = draft.checkpoint(UID, "base-manifest", TOTAL * EXTENT_BYTES, Counters())
            made = checkpoint.decode(checkpoint.encode(made), "checkpoint")
            draft = Draft(base, index.load)
            draft.resume(made, "checkpoint")
    refs = index.finished(draft, "last")
    for extent, stored in second.items():
        expected.pop(extent, None)
        if stored:
            expected[extent] = entry(extent, 2)
    assert index.content(refs) == expected
    touched_shards = {extent // SHARD_EXTENTS for extent in second}
    unchanged = {ref for ref in base if ref.shard not in touched_shards}
    assert unchanged <= set(refs), "untouched shards are used as they are"


def test_a_discard_of_everything_touches_only_what_was_there() -> None:
    index = Index()
    draft = Draft((), index.load)
    draft.apply(Segment([Outcome(5, 6, entry(5, 1))], TOTAL))
    base = index.finished(draft, "base")
    draft = Draft(base, index.load)
    draft.apply(Segment([Outcome(0, TOTAL, None)], TOTAL))
    assert index.finished(draft, "none") == ()


def test_an_outcome_as_in_the_base_rewrites_nothing() -> None:
    index = Index()
    draft = Draft((), index.load)
    draft.apply(Segment([Outcome(5, 6, entry(5, 1))], TOTAL))
    base = index.finished(draft, "base")
    draft = Draft(base, index.load)
    draft.apply(Segment([Outcome(4, 5, None), Outcome(5, 6, entry(5, 1)), Outcome(7, 9, None)], TOTAL))
    assert index.finished(draft, "none") == base
    assert "none" not in index.objects
