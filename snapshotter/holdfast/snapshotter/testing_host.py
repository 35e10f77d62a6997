"""A stand-in for a storage host: serves frozen views over NBD with TLS, from a thread."""

import threading
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from holdfast.base.device import Op, Outcome, Request, fill
from holdfast.base.errors import NotFound
from holdfast.base.limits import EXTENT_BYTES
from holdfast.base.loop import Loop
from holdfast.base.nbd.export import ControlDone, Export, Served, StatusDone
from holdfast.base.nbd.server import Server
from holdfast.base.tls import PeerIdentity, TlsFiles, server_context
from holdfast.snapshotter.frozen import ALLOCATION, CHANGED, FrozenView


@runtime_checkable
class ReadsInto(Protocol):
    """A view that reads to where the bytes are wanted, as a worker does."""

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None: ...


class ViewExport:
    """An Export of a view. Reads from the extent `hold_from` on wait until `release`."""

    read_only = True
    private = False
    contexts: tuple[str, ...] = (ALLOCATION, CHANGED)

    def __init__(self, loop: Loop, view: FrozenView) -> None:
        self._loop = loop
        self._view = view
        self._held: list[Request] = []
        self._connections: list[Served] = []
        self.size_bytes = view.size_bytes
        self.hold_from = 1 << 62
        self.held = threading.Event()
        """A read waits."""
        self.left = threading.Event()
        """Nobody is connected any more."""
        self.fail = Outcome.OK
        """What reads end with."""

    def opened(self, connection: Served) -> None:
        self._connections.append(connection)
        self.left.clear()

    def closed(self) -> None:
        self._connections.pop()
        for request in self._held:
            request.done(Outcome.BUSY)
        self._held.clear()
        if not self._connections:
            self.left.set()

    def submit(self, request: Request) -> None:
        if request.op is not Op.READ:
            request.done(Outcome.READ_ONLY)
        elif request.offset // EXTENT_BYTES >= self.hold_from:
            self._held.append(request)
            self.held.set()
        else:
            self._answer(request)

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        done([(size, flags) for _, size, flags in self._view.block_status(context, offset, length)])

    def control(self, payload: bytes, done: ControlDone) -> None:
        done(Outcome.INVALID, b"")

    def release(self) -> None:
        """Let every read through. Any thread."""
        self._loop.call_from_thread(self._release)

    def _release(self) -> None:
        self.hold_from = 1 << 62
        for request in self._held:
            self._answer(request)
        self._held.clear()

    def _answer(self, request: Request) -> None:
        if isinstance(self._view, ReadsInto):
            self._view.read_into(request.buffers, request.offset)
        else:
            fill(request.buffers, self._view.read_many([(request.offset, request.length)]))
        request.done(self.fail)


class FrozenHost:
    """One host; `close` it."""

    def __init__(self, host_id: str, tls: TlsFiles) -> None:
        self.host_id = host_id
        self._exports: dict[str, ViewExport] = {}
        self._loop = Loop()
        self._server = Server(self._loop, self._open)
        self.port = self._server.listen_tcp("127.0.0.1", 0, tls=server_context(tls))
        self.peers: list[PeerIdentity | None] = []
        self._thread = threading.Thread(target=self._loop.run, name=host_id, daemon=True)
        self._thread.start()

    def serve(self, volume_uid: str, snapshot_uid: str, view: FrozenView) -> ViewExport:
        export = ViewExport(self._loop, view)
        self._exports[f"frozen:{volume_uid}:{snapshot_uid}"] = export
        return export

    def close(self) -> None:
        self._loop.call_from_thread(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.close()

    def _open(self, name: str, peer: PeerIdentity | None) -> Export:
        self.peers.append(peer)
        export: Any = self._exports.get(name)
        if export is None:
            raise NotFound("NO_SUCH_EXPORT", f"There is no export {name!r}.")
        found: Export = export
        return found
