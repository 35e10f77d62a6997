"""Encrypted snapshots, whole: lines of them, what is shared, what is refused, and what nobody can see."""

import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path
from random import Random

import pytest

from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.snapshotter import keys, manifest
from holdfast.snapshotter.base import Base
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.index import Index, load_manifest, new_shard_cache
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys_file import FileKeys
from holdfast.snapshotter.names import snapshot_of
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Killed, Rule
from holdfast.snapshotter.patient import PatientStore
from holdfast.snapshotter.reader import SnapshotReader
from holdfast.snapshotter.testing import (
    SMALL,
    VOLUME_UID,
    ModelVolume,
    differing_extents,
    index_of,
    new_upload,
    upload,
)
from holdfast.snapshotter.upload import Encryption, Job, Reports, Upload

UIDS = [f"{number:024x}" for number in range(16)]
KEYS = [DataKey(Random(number).randbytes(32)) for number in range(16)]
REBUILD = Path(__file__).with_name("rebuild.py")
MARK = b"a sentence that must not be seen in the object store "


def volume_of(seed: int, mib: int = 6) -> ModelVolume:
    chance, volume = Random(seed), ModelVolume(GIB)
    for _ in range(mib):
        volume.write(chance.randrange(0, 1023) * MIB, chance.randbytes(MIB))
    volume.write(600 * MIB, MARK * 10_000)
    return volume


def test_a_line_of_increments(store: ObjectStore) -> None:
    volume = volume_of(1)
    base, views, manifests = "", [], []
    for number in range(4):
        view = volume.freeze()
        base_key = KEYS[number - 1] if number else None
        result = upload(store, UIDS[number], view, base, key=KEYS[number], base_key=base_key)
        base = result.manifest
        views.append(view)
        manifests.append(base)
        volume.write((number + 7) * MIB, Random(number).randbytes(MIB))
    for number, view in enumerate(views):
        assert differing_extents(store, manifests[number], view, KEYS[number]) == []
    index = index_of(store, manifests[3], key=KEYS[3])
    packs = {entry.pack.name for ref in index.manifest.shards for entry in index.load(ref).entries().values()}
    assert {snapshot_of(name) for name in packs} == set(UIDS[:4]), "it shares packs with all before it"
    assert set(index_of(store, manifests[1], key=KEYS[1]).keys.keys) == set(UIDS[:2]), "no key of later ones"


def test_the_store_sees_no_content(directory: DirectoryStore) -> None:
    plain = upload(directory, UIDS[0], volume_of(2).freeze())
    stored = b"".join(directory.get(one.name) for one in directory.list(f"snapshots/{UIDS[0]}/"))
    assert MARK[:20] in stored, "this test sees what is stored in clear"
    assert plain.manifest
    upload(directory, UIDS[1], volume_of(2).freeze(), key=KEYS[1])
    stored = b"".join(directory.get(one.name) for one in directory.list(f"snapshots/{UIDS[1]}/"))
    assert MARK[:20] not in stored and KEYS[1].secret not in stored
    plain_digests = {entry.digest for entry in entries_of(index_of(directory, plain.manifest))}
    assert len(plain_digests) > 10 and not any(digest in stored for digest in plain_digests)


def entries_of(index: Index) -> list:  # type: ignore[type-arg]
    return [entry for ref in index.manifest.shards for entry in index.load(ref).entries().values()]


def test_unchanged_content_is_not_stored_again(directory: DirectoryStore) -> None:
    volume = volume_of(3)
    base = upload(directory, UIDS[0], volume.freeze(), key=KEYS[0]).manifest
    over_reported = frozenset(volume.extents)
    volume.write(900 * MIB, b"new")
    view = volume.freeze(over_report=over_reported)
    middle = upload(directory, UIDS[1], view, base, key=KEYS[1], base_key=KEYS[0])
    assert middle.counters.uploaded_bytes == EXTENT_BYTES
    view = volume.freeze(over_report=over_reported | {900 * MIB // EXTENT_BYTES})
    last = upload(directory, UIDS[2], view, middle.manifest, key=KEYS[2], base_key=KEYS[1])
    assert last.counters.uploaded_bytes == 0, "extents of two older snapshots, each under its own key"
    assert differing_extents(directory, last.manifest, view, KEYS[2]) == []


def test_killed_at_every_pack_it_goes_on(directory: DirectoryStore) -> None:
    view = volume_of(4).freeze()
    for death in range(1, 6):
        faulty = FaultyStore(directory)
        faulty.rules.append(Rule("put", "pack-", Fault.KILL, death, times=1))
        recorded: list[str] = []
        reports = Reports(checkpoint=lambda name, to=recorded: to.append(name) is None)  # type: ignore[misc]
        with pytest.raises(Killed):
            new_upload(faulty, UIDS[1], GIB, reports=reports, key=KEYS[1]).run(view)
        again = new_upload(directory, UIDS[1], GIB, key=KEYS[1])
        if recorded:
            assert not new_upload(directory, UIDS[1], GIB, key=KEYS[2]).resume(recorded[-1])
            assert not new_upload(directory, UIDS[1], GIB).resume(recorded[-1])
            assert again.resume(recorded[-1])
        assert differing_extents(directory, again.run(view).manifest, view, KEYS[1]) == []
    assert recorded


def test_a_reader_without_a_key(directory: DirectoryStore) -> None:
    made = upload(directory, UIDS[0], volume_of(5).freeze(), key=KEYS[0]).manifest
    fetcher = Fetcher(directory)
    try:
        index = Index(directory, load_manifest(directory, made), new_shard_cache(MIB))
        with pytest.raises(KeyUnavailable):
            SnapshotReader(index, fetcher).read(600 * MIB, 4096)
        with pytest.raises(DataLoss, match="manifest-"):
            index_of(directory, made, key=KEYS[1])
        good = SnapshotReader(index_of(directory, made, key=KEYS[0]), fetcher)
        assert good.read(600 * MIB, len(MARK)) == MARK
    finally:
        fetcher.close()


def test_an_index_that_was_written_without_the_key_is_refused(directory: DirectoryStore) -> None:
    """Who may write the bucket leads an extent's entry to another one's bytes, with sound checksums."""
    made = upload(directory, UIDS[0], volume_of(6).freeze(), key=KEYS[0]).manifest
    index = index_of(directory, made, key=KEYS[0])
    fewer = index.manifest.shards[:-1]
    forged = manifest.Manifest(
        UIDS[0], VOLUME_UID, "", GIB, 0, fewer, index.manifest.keys
    )  # fmt: skip
    directory.put("forged", manifest.encode(forged, KEYS[1]))
    with pytest.raises(DataLoss, match="forged"):
        index_of(directory, "forged", key=KEYS[0])
    stripped = manifest.Manifest(UIDS[0], VOLUME_UID, "", GIB, 0, index.manifest.shards)
    directory.put("stripped", manifest.encode(stripped))
    fetcher = Fetcher(directory)
    try:
        with pytest.raises(KeyUnavailable):
            SnapshotReader(index_of(directory, "stripped"), fetcher).read(600 * MIB, 4096)
    finally:
        fetcher.close()


def test_an_independent_program_rebuilds_it(directory: DirectoryStore, tmp_path: Path) -> None:
    home = tmp_path / "keys" / "alice"
    home.mkdir(parents=True)
    (home / "main.key").write_bytes(b64encode(Random(9).randbytes(32)) + b"\n")
    (home / "main.key").chmod(0o600)
    service = FileKeys(tmp_path / "keys")
    volume = volume_of(7, 3)
    base, base_key = "", None
    for number in range(2):
        wrapped = keys.new_data_key(service, UIDS[number], "alice", "main")
        key = keys.open_data_key(service, UIDS[number], wrapped)
        stop = threading.Event()
        before = Base(index_of(directory, base, key=base_key)) if base else None
        job = Job(UIDS[number], VOLUME_UID, GIB, 0, before, base, Encryption(key, wrapped))
        view = volume.freeze()
        base = Upload(job, PatientStore(directory, stop, lambda _: None), stop, SMALL).run(view).manifest
        base_key = key
        volume.write(5 * MIB, b"second" * 1000)
    words = [sys.executable, str(REBUILD), str(tmp_path / "objects"), base, str(tmp_path / "image")]
    (tmp_path / "raw").write_bytes(key.secret)
    for key_file in (home / "main.key", tmp_path / "raw"):
        subprocess.run([*words, str(key_file)], check=True)
        with open(tmp_path / "image", "rb") as image:
            for extent in range(GIB // EXTENT_BYTES):
                assert image.read(EXTENT_BYTES) == view.read(extent * EXTENT_BYTES, EXTENT_BYTES)
    (tmp_path / "other").write_bytes(b64encode(bytes(32)))
    for wrong in ([], [str(tmp_path / "other")]):
        refused = subprocess.run([*words, *wrong], capture_output=True, text=True)
        assert refused.returncode == 1 and "damaged" in refused.stderr
