"""The server as a process among others: who may connect, etcd coming and going, watches, stopping."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from holdfast.api.host.v1 import host_pb2 as hb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.errors import Unauthenticated, Unavailable
from holdfast.base.ids import new_uid
from holdfast.base.limits import GIB
from holdfast.base.tls import TlsFiles
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.servers import LocalHost
from holdfast.metadata import keys, pki
from holdfast.metadata.client import connect
from holdfast.metadata.records import decode
from holdfast.metadata.server import SERVICES
from holdfast.metadata.statuses import error_of
from holdfast.metadata.testing import RunningMetadata, StandInHost, low_port

LIST = vb.ListVolumesRequest()


def listing_fails(address: str, tls: TlsFiles) -> grpc.RpcError:
    client = connect(address, tls)
    with pytest.raises(grpc.RpcError) as raised:
        client.volumes.ListVolumes(LIST, timeout=10)
    client.close()
    return raised.value


def test_wrong_certificates_are_refused(metadata: RunningMetadata, tmp_path: Path) -> None:
    assert not metadata.client("alice").volumes.ListVolumes(LIST).volumes
    expired = metadata.tls("expired-eve", valid_days=0)
    assert isinstance(error_of(listing_fails(metadata.address, expired)), Unavailable)
    pki.init(tmp_path)
    pki.issue(tmp_path, "user", "mallory")
    theirs = pki.Identity(tmp_path, "mallory").tls
    assert isinstance(error_of(listing_fails(metadata.address, theirs)), Unavailable)
    # Trusting the right authority, with a certificate of the wrong one.
    ours = metadata.tls("alice")
    mixed = TlsFiles(ours.ca, theirs.certificate, theirs.key)
    assert isinstance(error_of(listing_fails(metadata.address, mixed)), Unavailable)


def test_no_certificate_is_refused(metadata: RunningMetadata) -> None:
    ca = metadata.tls("alice").ca.read_bytes()
    for channel in (
        grpc.secure_channel(metadata.address, grpc.ssl_channel_credentials(ca)),
        grpc.insecure_channel(metadata.address),
    ):
        call = channel.unary_unary("/holdfast.api.volume.v1.VolumeService/ListVolumes")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=10)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        channel.close()


@pytest.mark.parametrize("role", ["host", "service"])
def test_other_roles_are_no_users(metadata: RunningMetadata, role: str) -> None:
    error = error_of(listing_fails(metadata.address, metadata.tls(f"a-{role}", role)))
    assert isinstance(error, Unauthenticated) and error.reason == "BAD_CERTIFICATE"


def test_a_user_cannot_serve(metadata: RunningMetadata, tmp_path: Path) -> None:
    """A user's certificate does not pass for the service's."""
    pki.init(tmp_path)
    pki.issue(tmp_path, "user", "mallory")
    mallory = pki.Identity(tmp_path, "mallory").tls
    server = grpc.server(ThreadPoolExecutor(1))
    pair = (mallory.key.read_bytes(), mallory.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    error = error_of(listing_fails(f"127.0.0.1:{port}", mallory))
    assert isinstance(error, Unavailable)
    server.stop(0).wait()


def test_health_and_reflection(metadata: RunningMetadata) -> None:
    channel = metadata.client("alice").channel
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", *SERVICES):
        until_health(health, service, health_pb2.HealthCheckResponse.SERVING)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection.ServerReflectionInfo(iter([request]))
    named = {one.name for one in answer.list_services_response.service}
    assert named == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def until_health(health: health_pb2_grpc.HealthStub, service: str, status: int) -> None:
    """Watch until it is that."""
    call = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=30)
    for answer in call:
        if answer.status == status:
            call.cancel()
            return
    raise AssertionError("the watch ended")


@pytest.fixture
def own_etcd(local_host: LocalHost) -> Iterator[EtcdServer]:
    """An etcd that is not running yet."""
    server = EtcdServer(local_host, local_host.folder / f"etcd-{new_uid()}", port=low_port())
    yield server
    server.kill()


def test_starts_and_goes_on_without_etcd(own_etcd: EtcdServer, authority: Path) -> None:
    running = RunningMetadata(authority, own_etcd.endpoint, etcd_timeout_s=0.5).start()
    alice = running.client("alice")
    health = health_pb2_grpc.HealthStub(alice.channel)
    create = vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB)
    for request, method in ((LIST, alice.volumes.ListVolumes), (create, alice.volumes.CreateVolume)):
        with pytest.raises(grpc.RpcError) as raised:
            method(request, timeout=20)
        assert error_of(raised.value).reason == "ETCD_UNREACHABLE"
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    until_health(health, "", health_pb2.HealthCheckResponse.NOT_SERVING)
    own_etcd.start()
    until_health(health, "", health_pb2.HealthCheckResponse.SERVING)
    hosts = [StandInHost(running.etcd, authority, name).start() for name in ("host-a", "host-b")]
    assert alice.volumes.CreateVolume(create).created
    watch = alice.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id="v"), timeout=60)
    assert next(watch).volume.volume_id == "v"
    own_etcd.kill()
    until_health(health, "", health_pb2.HealthCheckResponse.NOT_SERVING)
    own_etcd.start()
    until_health(health, "", health_pb2.HealthCheckResponse.SERVING)
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="v"))
    assert list(watch)[-1].deleted, "the watch went on over etcd's death"
    for host in hosts:
        host.stop()
    running.stop()


def test_many_creations_at_once(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    """Each gets its own ports, and the room that was promised is the sum."""
    alice, count = metadata.client("alice"), 24

    def create(number: int) -> bool:
        # Every id twice: one of the two makes it.
        request = vb.CreateVolumeRequest(volume_id=f"v{number // 2}", size_bytes=GIB)
        return bool(alice.volumes.CreateVolume(request, timeout=60).created)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(2 * count)))
    assert sum(created) == count
    for host_id in ("host-a", "host-b"):
        entries, _ = metadata.etcd.range(keys.assignments(host_id))
        ports = [decode(r.Assignment, entry.value).nbd_port for entry in entries]
        assert len(set(ports)) == count
        entry = metadata.etcd.get(keys.host(host_id))
        assert entry is not None and decode(r.HostRecord, entry.value).allocated_bytes == count * GIB


def test_watches_share_one_and_see_the_end(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice = metadata.client("alice")
    alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB))
    request = vb.WatchVolumeRequest(volume_id="v")
    watches = [alice.volumes.WatchVolume(request, timeout=30) for _ in range(20)]
    for watch in watches:
        next(watch)
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="v"))
    for watch in watches:
        states = [answer.volume.state for answer in watch]
        assert states[-1] == r.VOLUME_STATE_UNSPECIFIED, "the last answer says deleted"


def test_a_host_is_watched_while_it_is_emptied(
    metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, olga = metadata.client("alice"), metadata.client("olga", "operator")
    watch = olga.hosts.WatchHost(hb.WatchHostRequest(host_id="host-a"), timeout=60)
    assert next(watch).host.volume_count == 0
    alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB))
    assert any(answer.host.volume_count == 1 for answer in watch)
    olga.hosts.DrainHost(hb.DrainHostRequest(host_id="host-a"))
    assert any(answer.host.draining for answer in watch)
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="v"))
    assert any(answer.host.volume_count == 0 for answer in watch)
    two_hosts[0].stop()
    assert any(not answer.host.live for answer in watch)
    olga.hosts.DeleteHost(hb.DeleteHostRequest(host_id="host-a"))
    assert list(watch)[-1].deleted


def test_a_defect_is_internal_and_says_nothing(
    metadata: RunningMetadata, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("private")

    monkeypatch.setattr("holdfast.metadata.volume_api.volume_of", broken)
    for method in (metadata.client("alice").volumes.GetVolume, metadata.client("alice").volumes.WatchVolume):
        with pytest.raises(grpc.RpcError) as raised:
            answer = method(vb.GetVolumeRequest(volume_id="v"), timeout=10)
            next(answer)
        assert raised.value.code() == grpc.StatusCode.INTERNAL
        assert "private" not in raised.value.details()
    assert "private" in caplog.text


def test_stopping_ends_watches(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice = metadata.client("alice")
    alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB))
    watch = alice.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id="v"), timeout=30)
    next(watch)
    stopping = threading.Thread(target=metadata.server.stop)
    stopping.start()
    with pytest.raises(grpc.RpcError) as raised:
        list(watch)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    stopping.join(10)
    assert not stopping.is_alive()


@pytest.fixture
def notices(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(30)
        yield made


def test_the_process(metadata: RunningMetadata, etcd_server: EtcdServer, notices: socket.socket) -> None:
    """`holdfast-metadata` starts, says READY=1, serves, and ends in order on SIGTERM with status 0."""
    identity = pki.Identity(metadata.directory, "metadata")
    address = f"127.0.0.1:{low_port()}"
    words = [sys.executable, "-m", "holdfast.metadata.main", "--listen", address]
    words += ["--etcd", etcd_server.endpoint]
    words += ["--ca", str(identity.tls.ca), "--cert", str(identity.tls.certificate)]
    words += ["--key", str(identity.tls.key), "--seal-key", str(identity.seal)]
    environment = {**os.environ, "NOTIFY_SOCKET": str(notices.getsockname())}
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)  # Whatever fails: leaving it waits for its end.
        assert notices.recv(100) == b"READY=1"
        client = connect(address, metadata.tls("alice"))
        assert not client.volumes.ListVolumes(LIST, timeout=10).volumes
        client.close()
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait(30) == 0
    assert "ListVolumes by alice: OK" in log
    assert "Traceback" not in log


def test_the_process_refuses_bad_files(metadata: RunningMetadata, tmp_path: Path) -> None:
    identity = pki.Identity(metadata.directory, "metadata")
    words = [sys.executable, "-m", "holdfast.metadata.main", "--listen", "127.0.0.1:0"]
    words += ["--ca", str(identity.tls.ca), "--cert", str(identity.tls.certificate)]
    words += ["--key", str(identity.tls.key), "--seal-key", str(identity.tls.ca)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "seal key" in done.stderr and "Traceback" not in done.stderr
