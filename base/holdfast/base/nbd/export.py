"""What an NBD server serves, as whoever owns the bytes must offer it."""

from collections.abc import Callable
from typing import Protocol

from holdfast.base.device import Outcome, Request
from holdfast.base.tls import PeerIdentity

StatusDone = Callable[[list[tuple[int, int]] | Outcome], None]
"""Takes runs of (length, flags) that follow each other, or what went wrong."""
ControlDone = Callable[[Outcome, bytes], None]


class Served(Protocol):
    """The connection that an export was opened on."""

    @property
    def in_flight(self) -> int:
        """Requests that the export has been given and has not ended."""
        ...

    @property
    def peer(self) -> PeerIdentity | None:
        """Who it is; None in clear."""
        ...

    def drain(self) -> None:
        """Take no more requests; close when those in flight are ended and answered. Idempotent."""
        ...

    def close(self, reason: str) -> None:
        """Close now; `Export.closed` is called before this returns. Idempotent. Replies not sent are lost."""
        ...


class Export(Protocol):
    """One named range of bytes. All of it runs on the server's loop; every `done` is called exactly once.

    One that has `submit_all(requests)` too is given WRITEs that came together by that, all of them, even if
    the connection ends with the first.

    One that has `lends = True` is given READs without buffers, and puts into that list memory of its own, as
    long as the read in all, which never changes again: nothing is copied on its way to the socket.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def read_only(self) -> bool:
        """Writes are refused before they get here, and flushes answered."""
        ...

    @property
    def contexts(self) -> tuple[str, ...]:
        """Metadata contexts that `block_status` answers for."""
        ...

    @property
    def private(self) -> bool:
        """Whether `control` is served."""
        ...

    def opened(self, connection: Served) -> None:
        """A client has chosen this export: requests may follow. Called once, before any of them."""
        ...

    def submit(self, request: Request) -> None:
        """READ, WRITE, ZERO or FLUSH, inside the export; buffers are the server's until `done`."""
        ...

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        """What [offset, offset + length) is like: at least one run from `offset` on, perhaps not all."""
        ...

    def control(self, payload: bytes, done: ControlDone) -> None:
        """The private command. The answer's bytes are sent with OK only."""
        ...

    def closed(self) -> None:
        """The connection is over; called once if `opened` was. No reply will be delivered any more, but
        requests in flight still have to be ended: only then may their effects be thought complete."""
        ...


OpenExport = Callable[[str, PeerIdentity | None], Export]
"""Gives the export of a name to a peer (None in clear), or raises HoldfastError, whose reason and message
the peer is shown. May be called several times for one connection; has no effect until `opened`."""
