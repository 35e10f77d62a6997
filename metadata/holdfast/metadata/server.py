"""The gRPC server: the services, health and reflection, behind mutual TLS."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from holdfast.api.attachment.v1 import attachment_pb2, attachment_pb2_grpc
from holdfast.api.collection.v1 import collection_pb2, collection_pb2_grpc
from holdfast.api.encryption.v1 import encryption_pb2, encryption_pb2_grpc
from holdfast.api.grant.v1 import grant_pb2, grant_pb2_grpc
from holdfast.api.host.v1 import host_pb2, host_pb2_grpc
from holdfast.api.schedule.v1 import schedule_pb2, schedule_pb2_grpc
from holdfast.api.settings.v1 import settings_pb2, settings_pb2_grpc
from holdfast.api.snapshot.v1 import snapshot_pb2, snapshot_pb2_grpc
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2, snapshot_group_pb2_grpc
from holdfast.api.volume.v1 import volume_pb2, volume_pb2_grpc
from holdfast.base.errors import Unavailable
from holdfast.base.tls import TlsFiles
from holdfast.metadata.attachment_api import AttachmentServicer
from holdfast.metadata.collection_api import CollectionServicer
from holdfast.metadata.encryption_api import EncryptionServicer
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.feed import Feed
from holdfast.metadata.grant_api import GrantServicer
from holdfast.metadata.group_api import SnapshotGroupServicer
from holdfast.metadata.health import HealthKeeper
from holdfast.metadata.host_api import HostServicer
from holdfast.metadata.rewrapping import Rewrapper
from holdfast.metadata.schedule_api import ScheduleServicer
from holdfast.metadata.service import WATCHES_MAX, Service
from holdfast.metadata.settings_api import SettingsServicer
from holdfast.metadata.snapshot_api import SnapshotServicer
from holdfast.metadata.volume_api import VolumeServicer

CALL_THREADS = 32
STOP_GRACE_S = 5.0
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_receive_message_length", 1 << 20),
)
SERVICES = [
    proto.DESCRIPTOR.services_by_name[name].full_name
    for proto, name in (
        (volume_pb2, "VolumeService"),
        (snapshot_pb2, "SnapshotService"),
        (snapshot_group_pb2, "SnapshotGroupService"),
        (grant_pb2, "GrantService"),
        (attachment_pb2, "AttachmentService"),
        (host_pb2, "HostService"),
        (settings_pb2, "SettingsService"),
        (schedule_pb2, "ScheduleService"),
        (encryption_pb2, "EncryptionService"),
        (collection_pb2, "CollectionService"),
    )
]


class MetadataServer:
    """Serves from `start` to `stop`. It starts whether or not etcd answers."""

    def __init__(
        self,
        listen: str,
        tls: TlsFiles,
        etcd: Etcd,
        seal_key: bytes,
        overcommit: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._feed = Feed(etcd)
        self._health = HealthKeeper(etcd, SERVICES)
        threads = ThreadPoolExecutor(CALL_THREADS + 2 * WATCHES_MAX, thread_name_prefix="rpc")
        self._server = grpc.server(threads, options=_OPTIONS)
        service = Service(etcd, self._feed, seal_key, overcommit, clock, Rewrapper(etcd, tls))
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(VolumeServicer(service), self._server)
        snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(SnapshotServicer(service), self._server)
        grant_pb2_grpc.add_GrantServiceServicer_to_server(GrantServicer(service), self._server)
        attachment_pb2_grpc.add_AttachmentServiceServicer_to_server(AttachmentServicer(service), self._server)
        host_pb2_grpc.add_HostServiceServicer_to_server(HostServicer(service), self._server)
        schedule_pb2_grpc.add_ScheduleServiceServicer_to_server(ScheduleServicer(service), self._server)
        settings_pb2_grpc.add_SettingsServiceServicer_to_server(SettingsServicer(service), self._server)
        encryption_pb2_grpc.add_EncryptionServiceServicer_to_server(EncryptionServicer(service), self._server)
        collection_pb2_grpc.add_CollectionServiceServicer_to_server(CollectionServicer(service), self._server)
        snapshot_group_pb2_grpc.add_SnapshotGroupServiceServicer_to_server(
            SnapshotGroupServicer(service), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        names = [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        try:
            self.port = self._server.add_secure_port(listen, _credentials(tls))
        except RuntimeError as error:
            raise Unavailable("CANNOT_LISTEN", f"Cannot listen at {listen}: {error}.") from error

    def start(self) -> None:
        self._health.start()
        self._feed.start()
        self._server.start()

    def stop(self) -> None:
        """Take no new calls, end the watches, let calls in progress finish."""
        self._health.stop()
        stopped = self._server.stop(STOP_GRACE_S)
        self._feed.stop()
        stopped.wait()

    def wait(self) -> None:
        self._server.wait_for_termination()


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    try:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], tls.ca.read_bytes(), require_client_auth=True)
    except OSError as error:
        raise Unavailable("BAD_TLS_FILES", f"A certificate file cannot be read: {error}.") from error
