"""What the benchmark of snapshots runs on: etcd, Swift, the service, a snapshotter and hosts."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from images import ImageView
from request_log import RequestCounter

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound
from holdfast.base.ids import new_uid
from holdfast.base.nbd.client import Client
from holdfast.base.tls import PeerIdentity, client_context
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.host_process import HostProcess
from holdfast.lab.servers import LocalHost, Starting, free_port
from holdfast.lab.swift import SwiftServer
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata, await_record
from holdfast.snapshotter.testing_host import FrozenHost
from holdfast.target.testing_agent import AgentProcess

LIMIT_S = 600.0
OWNER = "alice"
BUCKET = "snapshots"
_Record = TypeVar("_Record", bound=Message)


class World:
    """Made by `running`."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.folder = folder
        self.requests = RequestCounter()
        self._local = LocalHost(folder / "processes")
        ending.callback(self._local.down)
        (folder / "swift").mkdir()
        (folder / "etcd").mkdir()
        self.swift = SwiftServer(self._local, folder / "swift", request_log_port=self.requests.port).start()
        ending.callback(self.swift.kill)
        self.swift.make_bucket(BUCKET)
        etcd_server = EtcdServer(self._local, folder / "etcd").start()
        self.metadata = RunningMetadata(folder / "pki", etcd_server.endpoint, overcommit=20.0).start()
        ending.callback(self.metadata.stop)
        self.etcd = self.metadata.etcd
        self.host = FrozenHost("bench-host", self.metadata.tls("bench-host", "host"))
        ending.callback(self.host.close)
        self.nbd_port = free_port(self._local, "127.0.0.1")
        self.snapshotter = self._start_snapshotter(etcd_server.endpoint)
        ending.callback(self.snapshotter.end)
        self._ending = ending

    def _start_snapshotter(self, etcd_endpoint: str) -> HostProcess:
        own = self.metadata.tls("snapshotter", "service")
        words = [sys.executable, "-m", "holdfast.snapshotter.main", "--id", "bench", "--address", "127.0.0.1"]
        words += ["--listen-nbd", f"127.0.0.1:{self.nbd_port}", "--grpc-listen", "127.0.0.1:0"]
        words += ["--objects", f"s3://{BUCKET}/?endpoint={self.swift.endpoint_url}", "--etcd", etcd_endpoint]
        words += ["--collect-every-s", "0"]  # requests are counted
        words += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
        environment = {
            "AWS_ACCESS_KEY_ID": self.swift.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.swift.credentials.secret_key,
        }
        log = self.folder / "snapshotter.log"
        return Starting(self._local, words, name="snapshotter", log=log, env=environment).finish()

    def processor_s(self) -> float:
        """What everybody has used of the processors: Swift, the snapshotter, and this process, which is also
        the host and the plain client, with the programs that it has run."""
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        others = sum(_processor_s(pid) for pid in [*self.swift.pids, self.snapshotter.pid])
        return others + sum(used.ru_utime + used.ru_stime for used in own)

    def peak_mib(self) -> int:
        """The most memory that the snapshotter has had resident."""
        status = Path(f"/proc/{self.snapshotter.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) >> 10

    def snapshot(self, name: str, view: ImageView, base: r.SnapshotRecord | None = None) -> r.SnapshotRecord:
        """Have a view uploaded, as the snapshot `name` of OWNER's: its record when it is COMPLETED."""
        record = r.SnapshotRecord(
            uid=new_uid(), snapshot_id=name, owner=OWNER, volume_uid="b" * 24, volume_id="bench",
            size_bytes=view.size_bytes, state=r.SNAPSHOT_STATE_FROZEN, generation=2,
        )  # fmt: skip
        if base is not None:
            record.base_snapshot_uid, record.base_manifest = base.uid, base.manifest
        self.host.serve(record.volume_uid, record.uid, view)
        record.frozen_on.add(
            host_id="bench-host", boot_id="b", nbd_address="127.0.0.1", nbd_port=self.host.port
        )
        record.freeze_time.GetCurrentTime()

        def decide(draft: Draft) -> None:
            draft.put(keys.snapshot(record.uid), record)
            draft.put(keys.name("snapshots", OWNER, name), r.NameRecord(uid=record.uid))

        run(self.etcd, decide)
        return self.await_record(
            keys.snapshot(record.uid), r.SnapshotRecord, lambda one: one.state == r.SNAPSHOT_STATE_COMPLETED
        )

    def await_record(self, key: str, kind: type[_Record], holds: Callable[[_Record], bool]) -> _Record:
        """The record as soon as it is so."""
        return await_record(self.etcd, key, kind, holds, LIMIT_S)

    def nbdcopy(self, snapshot: r.SnapshotRecord, into: Path) -> None:
        """The snapshot's image in a file, by the snapshotter's NBD export."""
        files = self.metadata.tls("operator", "operator")
        folder = self.folder / "nbd-tls"
        folder.mkdir(exist_ok=True)
        names = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
        for name, file in zip(names, (files.ca, files.certificate, files.key), strict=True):
            (folder / name).write_bytes(file.read_bytes())
        uri = f"nbds://127.0.0.1:{self.nbd_port}/snapshot:{snapshot.uid}?tls-certificates={folder}"
        subprocess.run(["nbdcopy", uri, str(into)], check=True)

    def start_hosts(self) -> None:
        """Two storage hosts: agents without LIO, and their workers."""
        for number, name in enumerate(("host-a", "host-b"), 2):
            agent = AgentProcess(name, f"127.0.0.{number}", self.folder, self.metadata)
            agent.start()
            self._ending.callback(agent.end)
            self.await_record(keys.host_lease(name), r.HostLease, lambda _: True)

    def open_replica(self, volume_uid: str) -> Client:
        """The volume as its primary serves it to an operator."""
        primary = self._record(keys.replica(volume_uid), r.ReplicaRecord).primary_host_id
        port = self._record(keys.assignment(primary, volume_uid), r.Assignment).nbd_port
        address = self._record(keys.host(primary), r.HostRecord).address
        tls = client_context(self.metadata.tls("operator", "operator"))
        expected = PeerIdentity(primary, "host")
        return Client((address, port), f"replica:{volume_uid}", tls=tls, expected=expected)

    def _record(self, key: str, kind: type[_Record]) -> _Record:
        entry = self.etcd.get(key)
        if entry is None:
            raise NotFound("NO_RECORD", f"There is no {key}.")
        return decode(kind, entry.value)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(folder: Path) -> Iterator[World]:
    with ExitStack() as ending:
        yield World(folder, ending)
