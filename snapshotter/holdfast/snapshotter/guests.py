"""Users who read snapshots, beside the hosts that hydrate from them, which must never wait for users.

Guests have connections, threads, requests to the object store and caches of their own, all few; a user
who wants more is told so. What they may read is asked again while they read: a grant that is taken back
ends what is under way.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from holdfast.base.device import Outcome
from holdfast.base.errors import Exhausted, NotFound
from holdfast.base.limits import MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.export import Served
from holdfast.snapshotter.access import Readable
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.reader import SnapshotReader
from holdfast.snapshotter.serve import Readers, SnapshotExport

CONNECTIONS_PER_USER = 16
"""nbdcopy makes four, nbdinfo one."""
CONNECTIONS_MAX = 256
"""Of all users together: a quarter of the server's."""
THREADS = 4
GETS = 4
CACHE_BYTES = 32 * MIB


class Guests:
    """What all users of a process share. Connections are counted on the loop's thread."""

    def __init__(
        self,
        store: ObjectStore,
        per_user: int = CONNECTIONS_PER_USER,
        in_all: int = CONNECTIONS_MAX,
        keys: KeyService = NO_KEYS,
    ) -> None:
        self.readers = Readers(store, GETS, CACHE_BYTES, keys)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="guest")
        self._per_user = per_user
        self._in_all = in_all
        self._connected: Counter[str] = Counter()

    def check_room(self, user: str) -> None:
        """Raises Exhausted TOO_MANY_CONNECTIONS if `user` may not connect once more now."""
        if self._connected[user] >= self._per_user:
            raise Exhausted(
                "TOO_MANY_CONNECTIONS", f"You have {self._per_user} connections, the most: close one."
            )
        if self._connected.total() >= self._in_all:
            raise Exhausted(
                "TOO_MANY_CONNECTIONS", f"Users have {self._in_all} connections, the most: try again later."
            )

    def came(self, user: str) -> bool:
        """Count a connection of `user`'s; False if it is one too many. Either way, say when it has left."""
        self._connected[user] += 1
        return self._connected[user] <= self._per_user and self._connected.total() <= self._in_all

    def left(self, user: str) -> None:
        self._connected[user] -= 1
        if not self._connected[user]:
            del self._connected[user]

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.readers.close()


class GuestExport(SnapshotExport):
    """An Export of one snapshot to `user`, for as long as `check` does not raise NotFound."""

    def __init__(
        self, loop: Loop, guests: Guests, snapshot: Readable, user: str, check: Callable[[], Readable]
    ) -> None:
        super().__init__(loop, guests.readers, snapshot, check, guests.pool)
        self._guests = guests
        self._user = user
        self._check = check
        self._connection: Served | None = None

    def opened(self, connection: Served) -> None:
        self._connection = connection
        if not self._guests.came(self._user):
            connection.close("others were faster to take the last place")

    def closed(self) -> None:
        self._guests.left(self._user)
        self._connection = None

    def _reader(self) -> SnapshotReader:
        self._check()
        return super()._reader()

    def _outcome(self, error: BaseException) -> Outcome:
        if not isinstance(error, NotFound):
            return super()._outcome(error)
        if self._connection is not None:
            self._connection.close("what it reads is no longer its to read")
        return Outcome.READ_ONLY
