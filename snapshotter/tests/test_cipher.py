"""What is sealed opens with its key, as what it is, and in no other way."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter import blob, checkpoint, manifest, ring
from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.checkpoint import Checkpoint, Counters
from holdfast.snapshotter.cipher import SEALED_EXTRA_BYTES, DataKey, Tampered, seal, unseal
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.names import Namer
from holdfast.snapshotter.ring import KeyMaterial, Ring, WrappedKey

SECRETS = st.binary(min_size=32, max_size=32)
UIDS = st.text("0123456789abcdef", min_size=24, max_size=24)
TEXT = b"holdfast" * (EXTENT_BYTES // 8)
NOISE = os.urandom(EXTENT_BYTES)
KEY, OTHER = DataKey(b"k" * 32), DataKey(b"o" * 32)


def sealed(plain: bytes, key: DataKey = KEY) -> Blob:
    return blob.encode(plain, blob.keyed(blob.digest_of(plain), key), key)


@pytest.mark.parametrize("plain", [TEXT, NOISE, bytes(EXTENT_BYTES)], ids=["text", "noise", "zeros"])
def test_an_extent(plain: bytes) -> None:
    made = sealed(plain)
    assert len(made.stored) <= EXTENT_BYTES + SEALED_EXTRA_BYTES
    assert blob.decode(made, "it", 0, KEY) == plain
    assert sealed(plain).stored != made.stored, "a nonce is used once"
    assert sealed(plain).digest == made.digest != blob.digest_of(plain)
    assert sealed(plain, OTHER).digest != made.digest


def test_every_bit_of_a_sealed_extent_counts() -> None:
    made = sealed(TEXT)
    assert len(made.stored) < 200
    for at in range(8 * len(made.stored)):
        stored = bytearray(made.stored)
        stored[at // 8] ^= 1 << at % 8
        with pytest.raises(DataLoss, match="pack-7"):
            blob.decode(made._replace(stored=bytes(stored)), "pack-7", 0, KEY)
    for at in range(8 * len(made.digest)):
        digest = bytearray(made.digest)
        digest[at // 8] ^= 1 << at % 8
        with pytest.raises(DataLoss, match="pack-7"):
            blob.decode(made._replace(digest=bytes(digest)), "pack-7", 0, KEY)
    for coding in (0x00, 0x01, 0x10, 0x20, 0x21, 0x12, 0x31):
        with pytest.raises(DataLoss, match="pack-7"):
            blob.decode(made._replace(coding=coding), "pack-7", 0, KEY)
    for length in range(len(made.stored)):
        with pytest.raises(DataLoss, match="pack-7"):
            blob.decode(made._replace(stored=made.stored[:length]), "pack-7", 0, KEY)


def test_two_extents_cannot_be_swapped() -> None:
    one, two = sealed(TEXT), sealed(NOISE)
    for wrong in (one._replace(stored=two.stored), two._replace(stored=one.stored)):
        with pytest.raises(DataLoss):
            blob.decode(wrong, "it", 0, KEY)
    # With all that was said of it, it is the other extent: which is where is for the index to say.
    assert blob.decode(two, "it", 0, KEY) == NOISE


def test_a_wrong_key_is_damage_and_no_key_is_not() -> None:
    with pytest.raises(DataLoss):
        blob.decode(sealed(TEXT), "it", 0, OTHER)
    with pytest.raises(KeyUnavailable) as raised:
        blob.decode(sealed(TEXT), "it", 0)
    assert raised.value.reason == "KEY_UNAVAILABLE"
    with pytest.raises(DataLoss, match="not encrypted"):
        blob.decode(blob.encode(TEXT, blob.digest_of(TEXT)), "it", 0, KEY)


@given(SECRETS, st.binary(max_size=100), st.binary(max_size=40), st.data())
def test_sealed_bytes(key: bytes, data: bytes, bound: bytes, choice: st.DataObject) -> None:
    made = seal(key, data, bound)
    assert len(made) == len(data) + SEALED_EXTRA_BYTES and unseal(key, made, bound) == data
    at, flip = choice.draw(st.integers(0, len(made) - 1)), choice.draw(st.integers(1, 255))
    for broken in (made[:at] + bytes([made[at] ^ flip]) + made[at + 1 :], made[:at], b""):
        with pytest.raises(Tampered):
            unseal(key, broken, bound)
    with pytest.raises(Tampered):
        unseal(key, made, bound + b"x")


@given(UIDS, st.dictionaries(UIDS, SECRETS, max_size=5), st.data())
def test_a_ring(uid: str, secrets: dict[str, bytes], choice: st.DataObject) -> None:
    others = {one: DataKey(secret) for one, secret in secrets.items()}
    made = ring.seal_ring(uid, KEY, others)
    found = ring.open_ring(uid, KEY, made, "it")
    expected = secrets | {uid: KEY.secret}
    assert {one: key.secret for one, key in found.keys.items()} == expected
    for one in expected:
        key = found.of(Namer(one).pack())
        assert key and key.secret == expected[one]
    with pytest.raises(DataLoss):
        found.of(Namer("f" * 23 + "e").pack())
    stranger = choice.draw(UIDS.filter(lambda other: other != uid))
    for wrong_uid, wrong_key in ((uid, OTHER), (stranger, KEY)):
        with pytest.raises(DataLoss):
            ring.open_ring(wrong_uid, wrong_key, made, "it")


def test_a_plain_ring_has_no_keys() -> None:
    assert Ring({}).of(Namer("f" * 24).pack()) is None


NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
WRAPPED = st.builds(WrappedKey, NAMES, NAMES, st.binary(min_size=1, max_size=90))
REF = ShardRef(3, StoredObject("some/index", 4000), 0, 4000, 7, bytes(32))


@given(UIDS, WRAPPED, st.dictionaries(UIDS, SECRETS, max_size=3), st.data())
def test_a_manifest(uid: str, wrapped: WrappedKey, secrets: dict[str, bytes], choice: st.DataObject) -> None:
    sealed_ring = ring.seal_ring(uid, KEY, {one: DataKey(secret) for one, secret in secrets.items()})
    made = Manifest(uid, uid, "", 1 << 40, 5, (REF,), KeyMaterial(wrapped, sealed_ring))
    data = manifest.encode(made, KEY)
    assert manifest.decode(data, "it") == made, "it is legible without a key"
    found = manifest.open_keys(data, made, KEY, "it")
    assert {one: key.secret for one, key in found.keys.items()} == secrets | {uid: KEY.secret}
    with pytest.raises(DataLoss, match="some-manifest"):
        manifest.open_keys(data, made, OTHER, "some-manifest")
    # What somebody without the key makes of it has a sound checksum, and no proof.
    forged = manifest.encode(made, OTHER)
    with pytest.raises(DataLoss, match="holder of its snapshot's key"):
        manifest.open_keys(forged, manifest.decode(forged, "it"), KEY, "it")
    at = choice.draw(st.integers(0, len(data) - 1))
    flipped = data[:at] + bytes([data[at] ^ choice.draw(st.integers(1, 255))]) + data[at + 1 :]
    for broken in (flipped, data[:at], data + b"\0"):
        with pytest.raises(DataLoss, match="it"):
            manifest.open_keys(broken, manifest.decode(broken, "it"), KEY, "it")


def test_a_checkpoint() -> None:
    made = Checkpoint("a" * 24, "base", 1 << 30, 7, Counters(1, 2, 3), (), (), b"")
    data = checkpoint.encode(made, KEY)
    assert checkpoint.decode(data, "it", KEY) == made
    for bad, key in ((data, OTHER), (data, None), (checkpoint.encode(made), KEY)):
        with pytest.raises(DataLoss, match="it"):
            checkpoint.decode(bad, "it", key)
