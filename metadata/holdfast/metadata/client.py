"""A connection to the metadata service, as the command line and tests use it."""

from dataclasses import dataclass

import grpc

from holdfast.api.attachment.v1.attachment_pb2_grpc import AttachmentServiceStub
from holdfast.api.collection.v1.collection_pb2_grpc import CollectionServiceStub
from holdfast.api.encryption.v1.encryption_pb2_grpc import EncryptionServiceStub
from holdfast.api.grant.v1.grant_pb2_grpc import GrantServiceStub
from holdfast.api.host.v1.host_pb2_grpc import HostServiceStub
from holdfast.api.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from holdfast.api.settings.v1.settings_pb2_grpc import SettingsServiceStub
from holdfast.api.snapshot.v1.snapshot_pb2_grpc import SnapshotServiceStub
from holdfast.api.snapshot_group.v1.snapshot_group_pb2_grpc import SnapshotGroupServiceStub
from holdfast.api.volume.v1.volume_pb2_grpc import VolumeServiceStub
from holdfast.base.errors import Unavailable
from holdfast.base.tls import TlsFiles

_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True)
class Client:
    """One user's stubs. Errors of calls: `statuses.error_of`."""

    channel: grpc.Channel
    volumes: VolumeServiceStub
    snapshots: SnapshotServiceStub
    grants: GrantServiceStub
    attachments: AttachmentServiceStub
    hosts: HostServiceStub
    settings: SettingsServiceStub
    schedules: ScheduleServiceStub
    encryption: EncryptionServiceStub
    collection: CollectionServiceStub
    groups: SnapshotGroupServiceStub

    def close(self) -> None:
        self.channel.close()


def open_channel(server: str, tls: TlsFiles) -> grpc.Channel:
    """A channel to a service at `server` ("host:port"), as who we are. Raises Unavailable BAD_TLS_FILES."""
    try:
        credentials = grpc.ssl_channel_credentials(
            tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
        )
    except OSError as error:
        raise Unavailable("BAD_TLS_FILES", f"A certificate file cannot be read: {error}.") from error
    return grpc.secure_channel(server, credentials, _OPTIONS)


def connect(server: str, tls: TlsFiles) -> Client:
    """Stubs for the metadata service. Raises Unavailable BAD_TLS_FILES."""
    channel = open_channel(server, tls)
    return Client(
        channel,
        VolumeServiceStub(channel),
        SnapshotServiceStub(channel),
        GrantServiceStub(channel),
        AttachmentServiceStub(channel),
        HostServiceStub(channel),
        SettingsServiceStub(channel),
        ScheduleServiceStub(channel),
        EncryptionServiceStub(channel),
        CollectionServiceStub(channel),
        SnapshotGroupServiceStub(channel),
    )
