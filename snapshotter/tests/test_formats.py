"""What is encoded is decoded; what is damaged is found, whatever the damage."""

import hashlib
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.base.errors import DataLoss
from holdfast.base.limits import BLOCK_BYTES, EXTENT_BYTES, VOLUME_MAX_BYTES
from holdfast.snapshotter import blob, checkpoint, envelope, manifest, pack, shard
from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.checkpoint import Checkpoint, Counters
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.names import Namer, snapshot_of
from holdfast.snapshotter.objects import NAME_MAX_BYTES, check_name
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry

UIDS = st.text("0123456789abcdef", min_size=24, max_size=24)
DIGESTS = st.binary(min_size=32, max_size=32)
OBJECTS = st.builds(StoredObject, st.from_regex(r"[a-z0-9/-]{1,60}", fullmatch=True), st.integers(1, 1 << 40))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    where = draw(OBJECTS)
    stored_bytes = draw(st.integers(1, min(EXTENT_BYTES, where.size_bytes)))
    offset = draw(st.integers(0, where.size_bytes - stored_bytes))
    return Entry(where, offset, stored_bytes, draw(st.sampled_from(blob.CODINGS)), draw(DIGESTS))


@st.composite
def shards(draw: st.DrawFn) -> tuple[int, dict[int, Entry]]:
    index = draw(st.integers(0, 32_767))
    numbers = draw(st.sets(st.integers(0, SHARD_EXTENTS - 1), max_size=20))
    return index, {index * SHARD_EXTENTS + number: draw(entries()) for number in sorted(numbers)}


@st.composite
def references(draw: st.DrawFn, shard_count: int) -> tuple[ShardRef, ...]:
    numbers = draw(st.sets(st.integers(0, shard_count - 1), max_size=8))
    refs = []
    for number in sorted(numbers):
        where = draw(OBJECTS)
        length = draw(st.integers(0, min(where.size_bytes, (1 << 32) - 1)))
        offset = draw(st.integers(0, where.size_bytes - length))
        refs.append(
            ShardRef(number, where, offset, length, draw(st.integers(1, SHARD_EXTENTS)), draw(DIGESTS))
        )
    return tuple(refs)


SIZES = st.integers(1, VOLUME_MAX_BYTES // BLOCK_BYTES).map(lambda blocks: blocks * BLOCK_BYTES)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    size_bytes = draw(SIZES)
    refs = draw(references(manifest.shards_of(size_bytes)))
    base = draw(st.one_of(st.just(""), UIDS))
    return Manifest(draw(UIDS), draw(UIDS), base, size_bytes, draw(st.integers(0, 1 << 60)), refs)


@given(shards())
def test_a_shard(made: tuple[int, dict[int, Entry]]) -> None:
    index, expected = made
    data = shard.encode(index, expected)
    decoded = shard.decode(data, "it")
    assert decoded.index == index
    assert decoded.entries() == expected
    assert list(decoded.extents()) == sorted(expected)
    for extent in expected:
        assert decoded.get(extent) == expected[extent]
        assert list(decoded.extents(extent, extent + 1)) == [extent]
        if extent + 1 not in expected:
            assert decoded.get(extent + 1) is None
    assert shard.encode(index, decoded.entries()) == data


def test_a_full_shard_is_as_small_as_promised() -> None:
    where = StoredObject("snapshots/" + "0" * 70, 1 << 30)
    full = {number: Entry(where, number, 1, 0, bytes(32)) for number in range(SHARD_EXTENTS)}
    assert len(shard.encode(0, full)) < 230 * 1024


@given(manifests())
def test_a_manifest(made: Manifest) -> None:
    assert manifest.decode(manifest.encode(made), "it") == made


@given(st.data())
def test_a_checkpoint(data: st.DataObject) -> None:
    size_bytes = data.draw(SIZES)
    made = Checkpoint(
        data.draw(UIDS),
        data.draw(st.from_regex(r"[a-z0-9/-]{0,60}", fullmatch=True)),
        size_bytes,
        data.draw(st.integers(0, manifest.extents_of(size_bytes))),
        Counters(*(data.draw(st.integers(0, 1 << 60)) for _ in range(3))),
        data.draw(references(manifest.shards_of(size_bytes))),
        tuple(shard.encode(*data.draw(shards())) for _ in range(data.draw(st.integers(0, 3)))),
        data.draw(st.one_of(st.just(b""), shards().map(lambda one: shard.encode(*one)))),
    )
    assert checkpoint.decode(checkpoint.encode(made), "it") == made


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(min_size=1, max_size=300), DIGESTS), max_size=9))
def test_a_pack(extents: list[tuple[int, bytes, bytes]]) -> None:
    builder = pack.PackBuilder()
    for extent, stored, digest in extents:
        builder.add(extent, Blob(stored, 1, digest))
    data = builder.build()
    assert len(data) == builder.size_bytes
    rows = pack.decode_table(data, "it")
    assert [(row.extent, data[row.offset : row.offset + row.stored_bytes], row.digest) for row in rows] == (
        extents
    )


@given(st.one_of(shards().map(lambda one: shard.encode(*one)), manifests().map(manifest.encode)), st.data())
def test_damage_is_found(data: bytes, choice: st.DataObject) -> None:
    decode = shard.decode if data[8:12] == shard.KIND else manifest.decode
    at = choice.draw(st.integers(0, len(data) - 1))
    flipped = data[:at] + bytes([data[at] ^ choice.draw(st.integers(1, 255))]) + data[at + 1 :]
    for broken in (flipped, data[:at], data + b"\0", b""):
        with pytest.raises(DataLoss, match="some-object"):
            decode(broken, "some-object")


@given(st.sampled_from([shard, manifest, checkpoint]), st.binary(max_size=400))
@example(manifest, bytes(400))
def test_nonsense_in_a_sound_envelope_is_found(kind: object, body: bytes) -> None:
    """A checksum says that this is what was written, not that who wrote it knew the format."""
    data = envelope.seal(kind.KIND, body)  # type: ignore[attr-defined]
    with pytest.raises(DataLoss, match="some-object"):
        kind.decode(data, "some-object")  # type: ignore[attr-defined]


@given(shards(), st.data())
def test_a_shard_with_other_numbers_never_crashes(
    made: tuple[int, dict[int, Entry]], choice: st.DataObject
) -> None:
    body = bytearray(envelope.unseal(shard.KIND, shard.encode(*made), "it"))
    at = choice.draw(st.integers(0, len(body) - 1))
    body[at] ^= choice.draw(st.integers(1, 255))
    try:
        shard.decode(envelope.seal(shard.KIND, bytes(body)), "it").entries()
    except DataLoss as error:
        assert "it" in error.message


def test_a_newer_version_says_so() -> None:
    data = bytearray(manifest.encode(Manifest("a" * 24, "b" * 24, "", 4096, 0, ())))
    data[12] = 2
    with pytest.raises(DataLoss, match="use a newer one") as raised:
        manifest.decode(bytes(data), "it")
    assert raised.value.reason == "FORMAT_UNKNOWN"


@pytest.mark.parametrize(
    "plain",
    [bytes(EXTENT_BYTES), os.urandom(EXTENT_BYTES), b"holdfast" * (EXTENT_BYTES // 8)],
    ids=["zeros", "random", "text"],
)
def test_an_extent(plain: bytes) -> None:
    made = blob.encode(plain, hashlib.sha256(plain).digest())
    assert len(made.stored) <= EXTENT_BYTES
    assert blob.decode(made, "it", 0) == plain


def test_what_compresses_anywhere_that_is_looked_at_is_compressed() -> None:
    noise = os.urandom(EXTENT_BYTES)
    for at in range(0, EXTENT_BYTES, EXTENT_BYTES // 4):
        mixed = noise[:at] + bytes(EXTENT_BYTES // 4) + noise[at + EXTENT_BYTES // 4 :]
        made = blob.encode(mixed, blob.digest_of(mixed))
        assert made.coding == blob.CODING_ZSTD and len(made.stored) < EXTENT_BYTES * 0.8
    assert blob.encode(noise, blob.digest_of(noise)).coding == blob.CODING_PLAIN


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_damaged_extent_is_found(at: int, flip: int) -> None:
    plain = b"holdfast" * (EXTENT_BYTES // 8)
    made = blob.encode(plain, blob.digest_of(plain))
    stored = bytearray(made.stored)
    stored[at % len(stored)] ^= flip
    try:
        assert blob.decode(made._replace(stored=bytes(stored)), "pack-7", 100) == plain
    except DataLoss as error:
        assert "pack-7" in error.message and "[100," in error.message


def test_names_are_used_once() -> None:
    uid = "0123456789abcdef01234567"
    first, second = Namer(uid), Namer(uid)
    made = [
        make() for namer in (first, second) for make in (namer.pack, namer.index, namer.manifest, namer.pack)
    ]
    assert len(set(made)) == len(made)
    assert {snapshot_of(check_name(name)) for name in made} == {uid}
    assert max(map(len, made)) < NAME_MAX_BYTES
    assert snapshot_of("something/else") == ""
