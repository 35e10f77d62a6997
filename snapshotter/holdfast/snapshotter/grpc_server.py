"""The snapshotter's gRPC server: the block API, keys, health and reflection, behind mutual TLS."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from holdfast.api.blocks.v1 import blocks_pb2, blocks_pb2_grpc
from holdfast.api.key.v1 import key_pb2, key_pb2_grpc
from holdfast.base.errors import Unavailable
from holdfast.base.limits import MIB
from holdfast.base.tls import TlsFiles
from holdfast.metadata.health import HealthKeeper
from holdfast.snapshotter.quotas import CALLS_MAX

SERVICES = [
    blocks_pb2.DESCRIPTOR.services_by_name["BlockService"].full_name,
    key_pb2.DESCRIPTOR.services_by_name["KeyService"].full_name,
]
_MORE_THREADS = 16
"""Beside those of the calls that may be under way: for health, and for telling others that they may not."""
STOP_GRACE_S = 1.0
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # One block, or a list of tokens to read by.
    ("grpc.max_receive_message_length", MIB),
)


class GrpcServer:
    """Serves from `start` to `stop`."""

    def __init__(
        self,
        listen: str,
        tls: TlsFiles,
        keeper: HealthKeeper,
        blocks: blocks_pb2_grpc.BlockServiceServicer,
        keys: key_pb2_grpc.KeyServiceServicer,
    ) -> None:
        threads = ThreadPoolExecutor(CALLS_MAX + _MORE_THREADS, "rpc")
        self._server = grpc.server(threads, options=_OPTIONS)
        blocks_pb2_grpc.add_BlockServiceServicer_to_server(blocks, self._server)
        key_pb2_grpc.add_KeyServiceServicer_to_server(keys, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(keeper.servicer, self._server)
        names = [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], tls.ca.read_bytes(), require_client_auth=True)
        try:
            self.port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise Unavailable("CANNOT_LISTEN", f"Cannot listen at {listen}: {error}.") from error

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Take no new calls, and give those under way a moment: they can be made again elsewhere."""
        self._server.stop(STOP_GRACE_S).wait()
