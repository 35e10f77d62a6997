"""Reads of a snapshot's export, with and without a thread that waits; and what replies hold on to."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.testing import run_until
from holdfast.snapshotter import serve
from holdfast.snapshotter.access import Readable
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Rule
from holdfast.snapshotter.serve import Readers, SnapshotExport, _lent
from holdfast.snapshotter.testing import ModelVolume, upload

UID = "0" * 24
DATA_BYTES = 24 * MIB
READ_BYTES = 2 * EXTENT_BYTES


class Gated(FaultyStore):
    """While `gate` is closed, no extent comes."""

    def __init__(self, store: DirectoryStore) -> None:
        super().__init__(store)
        self.gate = threading.Event()
        self.gate.set()

    def get_pieces(self, name: str, offset: int, lengths: "list[int]") -> Iterator[bytes]:  # type: ignore[override]
        assert self.gate.wait(60)
        yield from super().get_pieces(name, offset, lengths)


class Served:
    """An export of a snapshot whose manifest and shard are in memory, or not."""

    def __init__(self, directory: DirectoryStore, loop: Loop) -> None:
        volume = ModelVolume(GIB)
        volume.write(0, random.Random(9).randbytes(DATA_BYTES))
        self.view, self.store, self.loop = volume.freeze(), Gated(directory), loop
        made = upload(self.store, UID, self.view)
        self.readers = Readers(self.store)
        self.lost: list[str] = []
        self.readers.on_lost = self.lost.append
        snapshot = Readable(UID, GIB, made.manifest, made.manifest_sha256)
        self.export = SnapshotExport(loop, self.readers, snapshot, lambda: snapshot)
        self.outcomes: dict[int, Outcome] = {}

    def ask(self, offset: int, length: int = READ_BYTES) -> Request:
        request = Request(Op.READ, offset, length, lambda outcome: self.outcomes.update({offset: outcome}))
        self.export.submit(request)
        return request

    def check(self, requests: list[Request]) -> None:
        """All are answered, rightly."""
        run_until(self.loop, lambda: len(self.outcomes) == len(requests), 60)
        assert set(self.outcomes.values()) == {Outcome.OK}
        for one in requests:
            assert b"".join(one.buffers) == self.view.read(one.offset, one.length)
        assert self.readers.promised_extents == 0
        self.outcomes.clear()


class NoThreads(ThreadPoolExecutor):
    def submit(self, *_: object, **__: object) -> "object":  # type: ignore[override]
        raise AssertionError("a thread is not needed for this")


@pytest.fixture
def served(directory: DirectoryStore) -> Iterator[Served]:
    loop = Loop()
    made = Served(directory, loop)
    yield made
    made.store.gate.set()
    made.readers.close()
    loop.close()


def test_what_needs_no_index_is_answered_without_a_thread(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.check([served.ask(0)])
    with monkeypatch.context() as patch:
        patch.setattr(served.loop, "_pool", NoThreads(1))
        served.check([served.ask(at) for at in range(0, DATA_BYTES, READ_BYTES)])
        odd = ((777, 1), (DATA_BYTES - 1, 4096), (500 * MIB, 4096), (EXTENT_BYTES - 5, 10))
        served.check([served.ask(offset, length) for offset, length in odd])
        hole = served.ask(100 * MIB)
        assert served.outcomes, "zeros are there at once"
        served.check([hole])


def test_what_is_promised_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PROMISED_MAX_EXTENTS", 10)
    served.check([served.ask(0)])
    served.store.gate.clear()
    # Beyond what comes with the first read, or of it.
    requests = [served.ask(at) for at in range(MIB, DATA_BYTES, READ_BYTES)]
    assert served.readers.promised_extents == 10
    served.store.gate.set()
    served.check(requests)


def test_what_is_damaged_is_said_and_counted_no_more(served: Served) -> None:
    served.check([served.ask(0)])
    served.store.rules.append(Rule("get_range", "pack-", Fault.MISSING))
    served.ask(MIB)
    run_until(served.loop, lambda: bool(served.outcomes), 60)
    assert served.outcomes == {MIB: Outcome.MEDIUM_ERROR}
    assert served.lost == [UID] and served.readers.promised_extents == 0


def test_most_of_an_extent_is_lent_and_little_of_it_is_copied() -> None:
    extent = bytes(EXTENT_BYTES)
    most, little = memoryview(extent)[1:], memoryview(extent)[: EXTENT_BYTES // 2]
    assert _lent(most).obj is extent
    assert _lent(little) == little
    assert _lent(little).obj is not extent, "4 KiB would keep 128 KiB in memory"
