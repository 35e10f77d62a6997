"""Real snapshotter processes on this machine, on a real etcd, against stand-in storage hosts: for tests."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from holdfast.api.blocks.v1.blocks_pb2_grpc import BlockServiceStub
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import GIB, MIB
from holdfast.base.nbd.client import Client
from holdfast.base.tls import TlsFiles, client_context
from holdfast.lab.host_process import HostProcess
from holdfast.lab.servers import LocalHost, Starting, free_port
from holdfast.metadata import keys, pki
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.client import open_channel
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.follow import follow
from holdfast.metadata.permissions import Permission
from holdfast.metadata.records import decode
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_url import open_store
from holdfast.snapshotter.testing import VOLUME_UID, ModelView, ModelVolume
from holdfast.snapshotter.testing_host import FrozenHost, ViewExport

LONGEST_S = 40.0


@dataclass
class World:
    """etcd, an authority, two stand-in hosts, a bucket; and snapshotters as they are started."""

    etcd: Etcd
    endpoint: str
    pki: Path
    objects: str
    local_host: LocalHost
    folder: Path
    hosts: list[FrozenHost] = field(default_factory=list)
    snapshotters: list[HostProcess] = field(default_factory=list)
    running: "list[Running]" = field(default_factory=list)

    def tls(self, name: str, role: str) -> TlsFiles:
        pki.issue(self.pki, role, name, ["127.0.0.1"] if role in pki.SERVING_ROLES else [])
        return pki.Identity(self.pki, name).tls

    def add_host(self, host_id: str) -> FrozenHost:
        self.hosts.append(FrozenHost(host_id, self.tls(host_id, "host")))
        return self.hosts[-1]

    def start(self, name: str = "s1", *options: str) -> "Running":
        own = self.tls("snapshotter", "service")
        nbd, rpc = free_port(self.local_host, "127.0.0.1"), free_port(self.local_host, "127.0.0.1")
        log = self.folder / f"{name}.log"
        words = [sys.executable, "-m", "holdfast.snapshotter.main", "--id", name, "--address", "127.0.0.1"]
        words += ["--listen-nbd", f"127.0.0.1:{nbd}", "--grpc-listen", f"127.0.0.1:{rpc}"]
        words += ["--objects", self.objects, "--etcd", self.endpoint, "--lease-ttl-s", "2"]
        words += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
        # Collection asks the store for things of its own: only where it is meant (the last option counts).
        words += ["--collect-every-s", "0"]
        words += options or ["--pack-mib", "2", "--checkpoint-s", "1"]
        process = Starting(self.local_host, words, name=f"snapshotter-{name}", log=log).finish()
        self.snapshotters.append(process)
        self.running.append(Running(self, process, nbd, rpc, log))
        return self.running[-1]

    def freeze(
        self,
        uid: str,
        view: ModelView,
        base: r.SnapshotRecord | None = None,
        hosts: list[FrozenHost] | None = None,
    ) -> list[ViewExport]:
        """Record a snapshot as FROZEN, and serve its view on the hosts."""
        record = r.SnapshotRecord(
            uid=uid, snapshot_id=f"s{uid}", owner="u", volume_uid=VOLUME_UID, volume_id="v",
            size_bytes=view.size_bytes, state=r.SNAPSHOT_STATE_FROZEN, generation=2,
        )  # fmt: skip
        if base is not None:
            record.base_snapshot_uid, record.base_manifest = base.uid, base.manifest
        exports = []
        for host in self.hosts:
            exports.append(host.serve(VOLUME_UID, uid, view))
            record.frozen_on.add(
                host_id=host.host_id, boot_id="b", nbd_address="127.0.0.1", nbd_port=host.port
            )
        record.freeze_time.FromMilliseconds(1_700_000_000_000)
        self.change(uid, lambda _: record)
        self.name(uid)
        return exports

    def name(self, uid: str) -> None:
        """Let its owner's id lead to the snapshot."""
        draft = Draft(self.etcd)
        draft.put(keys.name("snapshots", "u", f"s{uid}"), r.NameRecord(uid=uid))
        assert draft.commit()

    def grant(self, uid: str, user: str, permissions: "list[Permission] | None") -> None:
        """Grant, or (None) take it back."""
        draft = Draft(self.etcd)
        key = keys.grant(uid, user)
        if permissions is None:
            draft.delete(key)
        else:
            draft.put(key, r.GrantRecord(snapshot_uid=uid, user=user, permissions=permissions))
        assert draft.commit()

    def change(self, uid: str, change: Callable[[r.SnapshotRecord], r.SnapshotRecord | None]) -> None:
        def decide(draft: Draft) -> None:
            record = draft.get(keys.snapshot(uid), r.SnapshotRecord) or r.SnapshotRecord()
            changed = change(record)
            draft.put(keys.snapshot(uid), record if changed is None else changed)

        run(self.etcd, decide)

    def await_record(self, uid: str, holds: Callable[[r.SnapshotRecord], bool]) -> r.SnapshotRecord:
        """The record as soon as it is so."""
        stop = threading.Event()
        timer = threading.Timer(LONGEST_S, stop.set)
        timer.start()
        record = r.SnapshotRecord()
        try:
            for events in follow(self.etcd, keys.snapshot(uid), stop):
                for event in events:
                    record = (
                        decode(r.SnapshotRecord, event.entry.value) if event.entry else r.SnapshotRecord()
                    )
                    if holds(record):
                        return record
        finally:
            timer.cancel()
            stop.set()
        raise AssertionError(f"it did not become so: {record}")

    def completed(self, uid: str) -> r.SnapshotRecord:
        return self.await_record(uid, lambda record: record.state == r.SNAPSHOT_STATE_COMPLETED)

    def store(self) -> ObjectStore:
        return open_store(self.objects)

    def close(self) -> None:
        """End every process."""
        for process in self.snapshotters:
            process.kill()
        for host in self.hosts:
            host.close()


@dataclass
class Running:
    """One snapshotter process."""

    world: World
    process: HostProcess
    nbd_port: int
    grpc_port: int
    log: Path

    @contextmanager
    def blocks(self, name: str, role: str = "user") -> Iterator[BlockServiceStub]:
        """The block API, as `name`."""
        with open_channel(f"127.0.0.1:{self.grpc_port}", self.world.tls(name, role)) as channel:
            yield BlockServiceStub(channel)

    def nbd(self, uid: str, name: str, role: str) -> Client:
        return Client(
            ("127.0.0.1", self.nbd_port),
            f"snapshot:{uid}",
            contexts=("base:allocation",),
            tls=client_context(self.world.tls(name, role)),
        )


def volume_of(seed: int, mib: int) -> ModelVolume:
    """A volume of a GiB with `mib` of noise in places."""
    chance, volume = Random(seed), ModelVolume(GIB)
    for _ in range(mib):
        volume.write(chance.randrange(0, 1023) * MIB, chance.randbytes(MIB))
    return volume
