"""Channels to etcd's members: one is used until it fails, then the next; and what its errors mean.

The question that decides everything is whether a call that failed may have been carried out. A read may
be sent again anywhere. A write may be sent again only if it certainly never reached a server; otherwise
the caller is told OutcomeUnknown, and must look.
"""

import threading
import time
from collections.abc import Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from holdfast.base.errors import HoldfastError, OutcomeUnknown, Unavailable
from holdfast.base.tls import TlsFiles
from holdfast.metadata.etcd_types import Compacted, LeaseGone

_M = TypeVar("_M", bound=Message)

# A member that has lost its leader refuses, instead of answering from a store that may be out of date.
METADATA = (("hasleader", "true"),)
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 0.5
MESSAGE_MAX_BYTES = 64 << 20
_OPTIONS = (
    # etcd's server allows a ping every 5 s, and only while a call is open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", MESSAGE_MAX_BYTES),
    ("grpc.enable_http_proxy", 0),
)
# Said by gRPC when no connection could be made, and by etcd before it proposes anything.
_NEVER_SENT = ("failed to connect to all addresses", "etcdserver: no leader", "Name resolution failure")


def _channel(endpoint: str, tls: TlsFiles | None) -> grpc.Channel:
    target = endpoint.removeprefix("http://").removeprefix("https://")
    if tls is None:
        return grpc.insecure_channel(target, _OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    return grpc.secure_channel(target, credentials, _OPTIONS)


def never_sent(error: grpc.RpcError) -> bool:
    """Whether a call that ended so certainly did nothing."""
    details = error.details() or ""
    return error.code() == grpc.StatusCode.UNAVAILABLE and details.startswith(_NEVER_SENT)


def may_pass(error: grpc.RpcError) -> bool:
    """Whether another try, perhaps at another member, may succeed."""
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    )


def translate(error: grpc.RpcError) -> HoldfastError:
    """An answer that every member would give. Raises ValueError for a bug of ours."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(0)
    if code == grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseGone(0)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Unavailable("ETCD_FULL", f"etcd refuses writes ({details}): compact it or raise its quota.")
    # What etcd with authentication says to a client without a name.
    nameless = code == grpc.StatusCode.INVALID_ARGUMENT and "user name is empty" in details
    if nameless or code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Unavailable("ETCD_REFUSED", f"etcd refuses this process ({details}): check its certificate.")
    raise ValueError(f"etcd: {code.name}: {details}") from error


class Endpoints:
    """The members. All methods may be called from any thread."""

    def __init__(self, endpoints: Sequence[str], tls: TlsFiles | None, timeout_s: float) -> None:
        if not endpoints:
            raise ValueError("no etcd endpoint given")
        self.names = tuple(endpoints)
        self.timeout_s = timeout_s
        self._channels = [_channel(endpoint, tls) for endpoint in endpoints]
        self._current = 0
        self._lock = threading.Lock()
        self.closed = threading.Event()

    def current(self) -> tuple[int, grpc.Channel]:
        return self._current, self._channels[self._current]

    def leave(self, index: int) -> None:
        """Member `index` failed: use the next one, unless another thread has already moved on."""
        with self._lock:
            if self._current == index:
                self._current = (index + 1) % len(self._channels)

    def unreachable(self, error: BaseException) -> Unavailable:
        why = error.details() if isinstance(error, grpc.RpcError) else "it closed the stream"
        return Unavailable(
            "ETCD_UNREACHABLE", f"etcd cannot be reached at {', '.join(self.names)} ({why}): try again."
        )

    def call(self, path: str, request: Message, response_type: type[_M], repeatable: bool) -> _M:
        """One unary call, tried at each member in turn for `timeout_s` seconds.

        Raises Unavailable ETCD_UNREACHABLE (certainly nothing happened), OutcomeUnknown (only if not
        `repeatable`), or what `translate` gives.
        """
        deadline = time.monotonic() + self.timeout_s
        backoff_s = BACKOFF_FIRST_S
        for attempt in range(1, 1_000):
            index, channel = self.current()
            method: grpc.UnaryUnaryMultiCallable[Message, _M] = channel.unary_unary(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response_type.FromString,
            )
            left_s = deadline - time.monotonic()
            try:
                return method(request, timeout=self._share_s(left_s), metadata=METADATA)
            except grpc.RpcError as error:
                if not may_pass(error):
                    raise translate(error) from error
                if not (repeatable or never_sent(error)):
                    raise self._unknown(error) from error
                self.leave(index)
                if time.monotonic() + backoff_s >= deadline or self.closed.is_set():
                    raise self.unreachable(error) from error
            if attempt % len(self._channels) == 0:
                self.closed.wait(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
        raise AssertionError("unreachable: the deadline ends the loop")

    def close(self) -> None:
        self.closed.set()
        for channel in self._channels:
            channel.close()

    def _share_s(self, left_s: float) -> float:
        """How long one member may take, so that a silent one leaves time for the others."""
        return max(0.05, left_s / 2 if len(self._channels) > 1 else left_s)

    def _unknown(self, error: grpc.RpcError) -> OutcomeUnknown:
        return OutcomeUnknown(
            "OUTCOME_UNKNOWN",
            f"etcd did not answer ({error.details()}): the change may or may not have been made; look again.",
        )
