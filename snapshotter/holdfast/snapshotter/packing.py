"""From extents in order to confirmed packs in order, with several on their way at once.

Packs are put by a few threads and may arrive in any order; they are handed on in the order of the volume,
so that "everything below this extent is stored" is one number. At most `uploads` packs are on their way
and one is being filled, and of all uploads together as many as there are buffers.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.buffers import PackBuffers
from holdfast.snapshotter.draft import Outcome, Segment
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.pack import PackBuilder, PackRow
from holdfast.snapshotter.shard import Entry

PutPack = Callable[[bytearray], StoredObject]
"""Stores a pack under a new name and confirms it; called in a thread."""


class Committed(NamedTuple):
    """A segment, all of whose packs are stored."""

    segment: Segment
    dealt_extents: int
    """Extents of the plan's `read` that it deals with."""
    uploaded_extents: int
    pack_bytes: int


class _Sent(NamedTuple):
    outcomes: list[Outcome]
    rows: list[PackRow]
    dealt_extents: int
    end: int
    pack: "Future[StoredObject] | None"


class Packing:
    """Not for several threads. `commit` is called in order, within the calls below."""

    def __init__(
        self,
        put: PutPack,
        commit: Callable[[Committed], None],
        threads: ThreadPoolExecutor,
        pack_bytes: int,
        uploads: int,
        buffers: PackBuffers,
        stop: threading.Event,
    ) -> None:
        self._put = put
        self._commit = commit
        self._threads = threads
        self._pack_bytes = pack_bytes
        self._uploads = uploads
        self._sent: deque[_Sent] = deque()
        self._end = 0
        self._buffers = buffers
        self._stop = stop
        self._builder: PackBuilder | None = None
        self._outcomes: list[Outcome] = []
        self._dealt = 0

    def blob(self, extent: int, blob: Blob) -> None:
        """The extent is to be stored. May wait for a pack, of any upload, to be stored. Raises Stopped."""
        if self._builder is None:
            self._builder = PackBuilder(self._buffers.take(self._stop))
        self._builder.add(extent, blob)

    def zeros(self, first: int, end: int) -> None:
        """The extents [first, end) read as zeros."""
        if self._outcomes and self._outcomes[-1].end == first:
            first = self._outcomes.pop().first
        self._outcomes.append(Outcome(first, end, None))

    def reached(self, end: int, dealt_extents: int) -> None:
        """Everything below `end` has been said; `dealt_extents` of it since the last call were read.

        May wait for a pack to be stored, and raise what that raised.
        """
        self._end = end
        self._dealt += dealt_extents
        is_full = self._builder is not None and self._builder.size_bytes >= self._pack_bytes
        if is_full or len(self._outcomes) >= self._OUTCOMES_MAX:
            self._send()
        while self._sent and (len(self._sent) >= self._uploads or self._is_stored(self._sent[0])):
            self._commit_first()

    def flush(self) -> None:
        """Send what there is, and wait until all is committed."""
        if self._dealt or self._outcomes or self._builder is not None:
            self._send()
        self.drain()

    def drain(self) -> None:
        """Wait until all that was sent is committed; what was not sent is left out."""
        while self._sent:
            self._commit_first()

    _OUTCOMES_MAX = 65_536
    """Runs of zeros kept before a segment is cut without a pack being full."""

    def close(self) -> None:
        """Give back what is not sent; what is on its way ends by itself."""
        if self._builder is not None:
            self._buffers.give_back(self._builder.buffer)
            self._builder = None

    def _send(self) -> None:
        builder, pack = self._builder, None
        rows = list(builder.rows) if builder else []
        if builder is not None:
            pack = self._threads.submit(self._build_and_put, builder)
        self._sent.append(_Sent(self._outcomes, rows, self._dealt, self._end, pack))
        self._builder, self._outcomes, self._dealt = None, [], 0

    def _build_and_put(self, builder: PackBuilder) -> StoredObject:
        try:
            return self._put(builder.build())
        finally:
            self._buffers.give_back(builder.buffer)

    @staticmethod
    def _is_stored(sent: _Sent) -> bool:
        return sent.pack is None or sent.pack.done()

    def _commit_first(self) -> None:
        sent = self._sent[0]
        outcomes, pack_bytes = sent.outcomes, 0
        if sent.pack is not None:
            where = sent.pack.result()
            pack_bytes = where.size_bytes
            stored = (Outcome(row.extent, row.extent + 1, Entry(where, *row[1:])) for row in sent.rows)
            outcomes = [*outcomes, *stored]
        self._sent.popleft()
        # Of a batch, what reads as zeros by the map comes before what was read and found to be zeros.
        self._commit(
            Committed(Segment(sorted(outcomes), sent.end), sent.dealt_extents, len(sent.rows), pack_bytes)
        )
