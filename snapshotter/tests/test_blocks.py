"""Lists of blocks against a model, page by page; tokens; and quotas."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.errors import BadInput, Exhausted, HoldfastError, Precondition
from holdfast.base.limits import EXTENT_BYTES, KIB, SNAPSHOT_BLOCK_BYTES
from holdfast.snapshotter.block_tokens import BlockTokens, derive_key
from holdfast.snapshotter.blocks import BLOCK_EXTENTS, SHARD_BLOCKS, Listed, blocks_of, byte_range, changed
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.quotas import Quotas
from holdfast.snapshotter.shard import SHARD_EXTENTS
from holdfast.snapshotter.testing import ModelView, ModelVolume, index_of, upload

SIZE_BYTES = 5 * SHARD_EXTENTS * EXTENT_BYTES + 12 * KIB
"""Five shards and a little."""
LAST_EXTENT = SIZE_BYTES // EXTENT_BYTES
EXTENTS = st.one_of(
    st.integers(0, 9),
    st.integers(SHARD_EXTENTS - 5, SHARD_EXTENTS + 5),
    st.integers(3 * SHARD_EXTENTS, 3 * SHARD_EXTENTS + 9),
    st.integers(LAST_EXTENT - 9, LAST_EXTENT),
)
CONTENT = st.dictionaries(EXTENTS, st.integers(0, 3), max_size=24)
"""By extent; 0 is zeros."""


def write(volume: ModelVolume, content: dict[int, int]) -> None:
    for extent, what in content.items():
        if what:
            volume.write(extent * EXTENT_BYTES, bytes([what]) * 4096)
        else:
            volume.discard(extent, extent + 1)


def block_of(view: ModelView, block: int) -> bytes:
    return view.read(*byte_range(block, view.size_bytes))


def model(first: ModelView | None, second: ModelView) -> list[Listed]:
    """What differs, by looking at the bytes of every block that was ever written."""
    touched = {one // BLOCK_EXTENTS for view in (first, second) if view for one in view.extents}
    answer = []
    for block in sorted(touched):
        before, after = block_of(first, block) if first else b"", block_of(second, block)
        was, is_ = any(before), any(after)
        if before != after and (was or is_):
            answer.append(Listed(block, was, is_))
    return answer


def paged(first: Index | None, second: Index, limit: int, shards: int) -> list[Listed]:
    """All pages, each of which must keep its limits and go on where the last one ended."""
    found: list[Listed] = []
    start: int | None = 0
    for _ in range(10_000):
        assert start is not None
        page = changed(first, second, start, limit, shards)
        assert len(page.blocks) <= limit
        assert all(one.block >= start for one in page.blocks)
        found += page.blocks
        if page.next_block is None:
            return found
        assert page.next_block >= start + len(page.blocks), "it gets on, even with an empty page"
        start = page.next_block
    raise AssertionError("the pages do not end")


@given(
    before=CONTENT,
    changes=CONTENT,
    limit=st.sampled_from([1, 2, 3, 100]),
    shards=st.sampled_from([1, 2, 64]),
    incremental=st.booleans(),
)
def test_lists_are_what_a_model_says(
    directory: DirectoryStore,
    before: dict[int, int],
    changes: dict[int, int],
    limit: int,
    shards: int,
    incremental: bool,
) -> None:
    volume = ModelVolume(SIZE_BYTES)
    write(volume, before)
    first = volume.freeze()
    base = upload(directory, "1" * 24, first).manifest
    write(volume, changes)
    second = volume.freeze()
    young = upload(directory, "2" * 24, second, base if incremental else "").manifest
    one, other = index_of(directory, base), index_of(directory, young)
    assert paged(None, one, limit, shards) == [item._replace(in_first=False) for item in model(None, first)]
    assert paged(one, other, limit, shards) == model(first, second)
    assert paged(other, one, limit, shards) == model(second, first)
    assert paged(one, one, limit, shards) == []


def test_a_list_may_start_anywhere(directory: DirectoryStore) -> None:
    volume = ModelVolume(SIZE_BYTES)
    write(volume, {0: 1, 5: 1, SHARD_EXTENTS + 1: 1, LAST_EXTENT: 1})
    index = index_of(directory, upload(directory, "1" * 24, volume.freeze()).manifest)
    assert [one.block for one in changed(None, index, 0, 99).blocks] == [0, 1, SHARD_BLOCKS, LAST_EXTENT // 4]
    assert [one.block for one in changed(None, index, 2, 99).blocks] == [SHARD_BLOCKS, LAST_EXTENT // 4]
    assert changed(None, index, 1 << 31, 99) == ([], None)


def test_the_last_block_ends_with_the_snapshot() -> None:
    assert blocks_of(SIZE_BYTES) == 5 * SHARD_BLOCKS + 1
    assert byte_range(5 * SHARD_BLOCKS, SIZE_BYTES) == (5 * SHARD_BLOCKS * SNAPSHOT_BLOCK_BYTES, 12 * KIB)
    assert byte_range(1, 1 << 30) == (SNAPSHOT_BLOCK_BYTES, SNAPSHOT_BLOCK_BYTES)


def test_a_token_is_good_for_what_it_was_made_for_and_nothing_else() -> None:
    tokens = BlockTokens(derive_key(b"k" * 32))
    token = tokens.make("1" * 24, 7, "alice by ownership", 1000)
    BlockTokens(derive_key(b"k" * 32)).check(token, "1" * 24, 7, "alice by ownership", 999.9)
    for made, uid, block, holder in [
        (token, "2" * 24, 7, "alice by ownership"),
        (token, "1" * 24, 8, "alice by ownership"),
        (token, "1" * 24, 7, "bob by ownership"),
        (token, "1" * 24, 7, "alice by grant alice 5"),
        (token[:-1], "1" * 24, 7, "alice by ownership"),
        (b"", "1" * 24, 7, "alice by ownership"),
        (token + b"x", "1" * 24, 7, "alice by ownership"),
        (token[:5] + bytes([token[5] ^ 1]) + token[6:], "1" * 24, 7, "alice by ownership"),
        (b"\2" + token[1:], "1" * 24, 7, "alice by ownership"),
    ]:
        with pytest.raises(BadInput) as refused:
            tokens.check(made, uid, block, holder, 1.0)
        assert refused.value.reason == "BAD_BLOCK_TOKEN"
    with pytest.raises(BadInput):
        BlockTokens(derive_key(b"x" * 32)).check(token, "1" * 24, 7, "alice by ownership", 1.0)
    with pytest.raises(Precondition) as expired:
        tokens.check(token, "1" * 24, 7, "alice by ownership", 1000.0)
    assert expired.value.reason == "TOKEN_EXPIRED"


def test_quotas_are_per_caller_and_for_all() -> None:
    quotas = Quotas(per_user=2, in_all=3)
    inside, leave = threading.Barrier(4), threading.Event()

    def hold(user: str) -> None:
        with quotas.call(user):
            inside.wait(10)
            leave.wait(10)

    threads = [threading.Thread(target=hold, args=(user,)) for user in ("a", "a", "b")]
    for thread in threads:
        thread.start()
    inside.wait(10)
    for user in ("a", "c"):
        with pytest.raises(Exhausted), quotas.call(user):
            raise AssertionError("it was let in")
    leave.set()
    for thread in threads:
        thread.join()
    with pytest.raises(HoldfastError), quotas.call("a"):
        raise HoldfastError("X", "a call that fails gives its place back")
    with quotas.call("a"), quotas.call("a"):
        pass
