"""The snapshotters that serve blocks: found by asking, tried in turn, until one answers.

Any of them takes a call, and what another has given or taken is as good: so a call that one cannot answer
is made again elsewhere.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
import grpc

from holdfast.api.blocks.v1.blocks_pb2_grpc import BlockServiceStub
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.base.errors import Exhausted, Unavailable
from holdfast.cli.session import Session
from holdfast.metadata.statuses import error_of

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
PATIENCE_S = 120.0
"""How long a call is tried before it fails."""
PAUSE_S = 0.5


def at_option(function: F) -> F:
    return click.option(
        "--at", "servers", multiple=True, metavar="HOST:PORT", help="A snapshotter; repeatable. Else: all."
    )(function)


class BlockServers:
    """For many threads. Addresses are asked of the metadata service, unless they are given."""

    def __init__(self, session: Session, given: tuple[str, ...], patience_s: float = PATIENCE_S) -> None:
        self._session = session
        self._given = given
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._turn = 0

    def call(self, use: Callable[[BlockServiceStub], T]) -> T:
        """What `use` returns, on whatever server; it is called again after what may pass by itself."""
        deadline_s = time.monotonic() + self._patience_s
        while True:
            try:
                return use(BlockServiceStub(self._channel()))
            except grpc.RpcError as error:
                meant = error_of(error)
                passes = isinstance(meant, Unavailable) or meant.reason == "TOO_MANY_CALLS"
                if not passes or time.monotonic() + PAUSE_S > deadline_s:
                    raise _of_snapshotters(meant) from error
            with self._lock:
                self._turn += 1
            threading.Event().wait(PAUSE_S)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _channel(self) -> grpc.Channel:
        with self._lock:
            addresses = self._given or self._ask()
            address = addresses[self._turn % len(addresses)]
            if address not in self._channels:
                self._channels[address] = self._session.open(address)
            return self._channels[address]

    def _ask(self) -> tuple[str, ...]:
        request = sb.ListBlockServersRequest()
        found = self._session.pages(self._session.client.snapshots.ListBlockServers, request).servers
        if not found:
            raise Unavailable("NO_SNAPSHOTTER", "No snapshotter runs that serves blocks: start one, or wait.")
        return tuple(server.blocks for server in found)


def _of_snapshotters(error: Exception) -> Exception:
    if isinstance(error, Unavailable) and error.reason == "SERVER_UNREACHABLE":
        return Unavailable(
            "SERVER_UNREACHABLE", f"No snapshotter answers: {error.message.partition(': ')[2]}"
        )
    if isinstance(error, Exhausted):
        return Exhausted(error.reason, f"{error.message} (after {PATIENCE_S:g} s)")
    return error
