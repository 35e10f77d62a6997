"""What a cycle is played on: etcd, Swift, service, snapshotters, storage hosts, and a proxy that goes wrong.

All of them are real. Only the volume that snapshots are taken of is a model, so that what they must hold is
known.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from holdfast.api.blocks.v1.blocks_pb2_grpc import BlockServiceStub
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, NotFound
from holdfast.base.ids import new_uid
from holdfast.base.limits import EXTENT_BYTES
from holdfast.base.nbd.client import Client
from holdfast.base.tls import PeerIdentity, client_context
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.host_process import HostProcess
from holdfast.lab.s3_damage import Damage
from holdfast.lab.s3_proxy import S3Proxy
from holdfast.lab.servers import LocalHost, Starting, free_port
from holdfast.lab.swift import SwiftServer
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.client import open_channel
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata, await_record
from holdfast.snapshotter.objects_url import open_store
from holdfast.snapshotter.testing import ModelView, index_of
from holdfast.snapshotter.testing_host import FrozenHost
from holdfast.target.testing_agent import AgentProcess

LIMIT_S = 240.0
OWNER, OTHER = "alice", "bob"
VOLUME_UID = "c" * 24
_Record = TypeVar("_Record", bound=Message)


class Stage:
    """Made by `set_up`. Snapshotters are started and killed by their names."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.folder = folder
        self._ending = ending
        self._local = LocalHost(folder / "processes")
        ending.callback(self._local.down)
        for name in ("swift", "etcd"):
            (folder / name).mkdir()
        self._swift = SwiftServer(self._local, folder / "swift").start()
        os.environ["AWS_ACCESS_KEY_ID"] = self._swift.credentials.access_key
        os.environ["AWS_SECRET_ACCESS_KEY"] = self._swift.credentials.secret_key
        ending.callback(self._swift.kill)
        self._etcd_server = EtcdServer(self._local, folder / "etcd").start()
        self.metadata = RunningMetadata(folder / "pki", self._etcd_server.endpoint, overcommit=20.0).start()
        ending.callback(self.metadata.stop)
        self.etcd = self.metadata.etcd
        self.host = FrozenHost("model-host", self.metadata.tls("model-host", "host"))
        ending.callback(self.host.close)
        self.proxy = S3Proxy(self._swift.port).start()
        ending.callback(self.proxy.stop)
        self._bucket = ""
        self._ports = {
            name: (free_port(self._local, "127.0.0.1"), free_port(self._local, "127.0.0.1"))
            for name in ("one", "two")
        }
        self._running: dict[str, HostProcess] = {}
        self.agents: list[AgentProcess] = []

    def new_bucket(self, name: str) -> None:
        """What follows is in a bucket of its own."""
        self._bucket = self._swift.make_bucket(name)
        self._swift.make_bucket(f"{name}-dr")

    @property
    def damage(self) -> Damage:
        return Damage(self._swift.client(), self._bucket)

    @property
    def target_url(self) -> str:
        """Of the store that snapshots are copied to."""
        return f"s3://{self._bucket}-dr/there?endpoint={self.proxy.endpoint_url}"

    def packs(self, record: r.SnapshotRecord) -> list[str]:
        """Of a snapshot, by its index: a listing may lag behind."""
        store = open_store(f"s3://{self._bucket}/?endpoint={self._swift.endpoint_url}")
        index = index_of(store, record.manifest, record.manifest_sha256)
        names = {pack.name for ref in index.manifest.shards for pack in index.load(ref).packs}
        store.close()
        return sorted(names)

    def start(self, name: str) -> None:
        """A snapshotter, `one` or `two`, with small packs, a checkpoint after each, and little patience."""
        nbd, rpc = self._ports[name]
        own = self.metadata.tls("snapshotter", "service")
        patience = "connect_timeout_s=1&read_timeout_s=2&attempts=2"
        words = [sys.executable, "-m", "holdfast.snapshotter.main", "--id", name, "--address", "127.0.0.1"]
        words += ["--listen-nbd", f"127.0.0.1:{nbd}", "--grpc-listen", f"127.0.0.1:{rpc}"]
        words += ["--objects", f"s3://{self._bucket}/?endpoint={self.proxy.endpoint_url}&{patience}"]
        words += ["--etcd", self._etcd_server.endpoint, "--lease-ttl-s", "2"]
        words += ["--collect-every-s", "0"]
        words += ["--pack-mib", "1", "--checkpoint-s", "0", "--target", f"dr={self.target_url}&{patience}"]
        words += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
        process = Starting(self._local, words, name=f"snapshotter-{name}", log=self.log(name)).finish()
        self._running[name] = process
        self._ending.callback(process.kill)

    def kill(self, name: str) -> None:
        self._running.pop(name).kill()

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def logs(self) -> str:
        return "".join(self.log(name).read_text() for name in self._ports if self.log(name).exists())

    def start_hosts(self) -> None:
        """Two storage hosts: agents without LIO, and their workers; at addresses that no other run uses."""
        network = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"
        for number, name in enumerate(("host-a", "host-b"), 2):
            agent = AgentProcess(name, f"{network}.{number}", self.folder, self.metadata)
            agent.start()
            self.agents.append(agent)
            self._ending.callback(agent.end)
            self.await_record(keys.host_lease(name), r.HostLease, lambda _: True)

    def freeze(self, name: str, view: ModelView, base: r.SnapshotRecord | None = None) -> str:
        """A snapshot of OWNER's, to be uploaded; its uid."""
        record = r.SnapshotRecord(
            uid=new_uid(), snapshot_id=name, owner=OWNER, volume_uid=VOLUME_UID, volume_id="model",
            size_bytes=view.size_bytes, state=r.SNAPSHOT_STATE_FROZEN,
            generation=base.generation + 1 if base else 2,
        )  # fmt: skip
        if base is not None:
            record.base_snapshot_uid, record.base_manifest = base.uid, base.manifest
        self.host.serve(VOLUME_UID, record.uid, view)
        record.frozen_on.add(
            host_id="model-host", boot_id="b", nbd_address="127.0.0.1", nbd_port=self.host.port
        )
        record.freeze_time.GetCurrentTime()

        def decide(draft: Draft) -> None:
            draft.put(keys.snapshot(record.uid), record)
            draft.put(keys.name("snapshots", OWNER, name), r.NameRecord(uid=record.uid))

        run(self.etcd, decide)
        return record.uid

    def completed(self, uid: str) -> r.SnapshotRecord:
        """Its record when it is COMPLETED; nothing else may become of it."""

        def ended(record: r.SnapshotRecord) -> bool:
            if record.state == r.SNAPSHOT_STATE_FAILED:
                raise AssertionError(f"snapshot {uid} FAILED: {record.reason}")
            return record.state == r.SNAPSHOT_STATE_COMPLETED

        return self.await_record(keys.snapshot(uid), r.SnapshotRecord, ended)

    def snapshot(self, uid: str, holds: Callable[[r.SnapshotRecord], bool]) -> r.SnapshotRecord:
        return self.await_record(keys.snapshot(uid), r.SnapshotRecord, holds)

    def await_record(self, key: str, kind: type[_Record], holds: Callable[[_Record], bool]) -> _Record:
        """The record as soon as it is so."""
        try:
            return await_record(self.etcd, key, kind, holds, LIMIT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()[-3000:]}") from error

    def open_snapshot(self, uid: str, user: str) -> Client:
        """The snapshot as an NBD export, from any snapshotter. Raises what the last one did."""
        trouble: HoldfastError = NotFound("NONE", "no snapshotter")
        for nbd, _ in self._ports.values():
            try:
                tls = client_context(self.metadata.tls(user, "user"))
                return Client(("127.0.0.1", nbd), f"snapshot:{uid}", tls=tls)
            except HoldfastError as error:
                trouble = error
        raise trouble

    @contextmanager
    def blocks(self, user: str) -> Iterator[BlockServiceStub]:
        """The block API of the snapshotter `one`."""
        tls = self.metadata.tls(user, "user")
        with open_channel(f"127.0.0.1:{self._ports['one'][1]}", tls) as channel:
            yield BlockServiceStub(channel)

    def open_volume(self, volume_uid: str, host_id: str = "") -> Client:
        """A volume as a host of it (its primary) serves it to an operator."""
        host_id = host_id or self._record(keys.replica(volume_uid), r.ReplicaRecord).primary_host_id
        port = self._record(keys.assignment(host_id, volume_uid), r.Assignment).nbd_port
        address = self._record(keys.host(host_id), r.HostRecord).address
        tls = client_context(self.metadata.tls("operator", "operator"))
        return Client(
            (address, port), f"replica:{volume_uid}", tls=tls, expected=PeerIdentity(host_id, "host")
        )

    def _record(self, key: str, kind: type[_Record]) -> _Record:
        entry = self.etcd.get(key)
        if entry is None:
            raise NotFound("NO_RECORD", f"There is no {key}.")
        return decode(kind, entry.value)


def wrong_and_lost(
    connect: Callable[[], Client],
    view: ModelView,
    more: int = 8,
    limit_s: float = LIMIT_S,
    leave_out: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """The extents that read other than in `view`, and those that are errors for good. Others are tried again.

    Args:
        more: how many holes are read beside what holds data.
        leave_out: extents that are not read.
    """
    total = view.size_bytes // EXTENT_BYTES
    wanted = sorted(set(view.allocated) | {total * step // more for step in range(more)})
    wanted = [extent for extent in wanted if extent not in leave_out]
    wrong, lost, deadline_s = [], [], time.monotonic() + limit_s
    client: Client | None = None
    for extent in wanted:
        offset = extent * EXTENT_BYTES
        while True:
            try:
                client = client or connect()
                if bytes(client.read(offset, EXTENT_BYTES)) != view.read(offset, EXTENT_BYTES):
                    wrong.append(extent)
                break
            except DataLoss:
                lost.append(extent)
                break
            except (HoldfastError, OSError) as error:
                if client is not None:
                    client.close()
                client = None
                if time.monotonic() > deadline_s:
                    raise AssertionError(f"extent {extent} cannot be read: {error}") from error
                threading.Event().wait(0.1)
    if client is not None:
        client.close()
    return wrong, lost


@contextmanager
def set_up(folder: Path) -> Iterator[Stage]:
    with ExitStack() as ending:
        yield Stage(folder, ending)
