"""The data keys of snapshots that are read: one question to the key service, not one for each read.

A key that was got is kept by whoever reads with it, for as long as that reads: a key service that goes away
meanwhile disturbs nobody. A refusal is remembered for a little while, since what waits asks again and again.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from holdfast.snapshotter import keys
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys import KeyService
from holdfast.snapshotter.ring import WrappedKey

AGAIN_S = 2.0
"""How long a refusal is not asked for again."""
REFUSALS_MAX = 1024


class Unlocker:
    """For many threads."""

    def __init__(self, service: KeyService, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._refused: OrderedDict[tuple[str, WrappedKey], tuple[str, bool, float]] = OrderedDict()

    def data_key(self, snapshot_uid: str, wrapped: Sequence[WrappedKey]) -> DataKey:
        """The data key of a snapshot, by any of the ways in which it is wrapped for who reads it.

        Raises KeyUnavailable, `lost` only if each of them is.
        """
        refusal = KeyUnavailable(f"No key of snapshot {snapshot_uid} is recorded for who reads it.")
        for one in wrapped:
            try:
                return self._ask(snapshot_uid, one)
            except KeyUnavailable as error:
                if one is wrapped[0] or not error.lost:
                    refusal = error
        raise refusal

    def _ask(self, snapshot_uid: str, wrapped: WrappedKey) -> DataKey:
        asked = (snapshot_uid, wrapped)
        with self._lock:
            message, lost, until_s = self._refused.get(asked, ("", False, 0.0))
        if message and self._clock() < until_s:
            raise KeyUnavailable(message, lost)
        try:
            return keys.open_data_key(self._service, snapshot_uid, wrapped)
        except KeyUnavailable as error:
            with self._lock:
                self._refused[asked] = (error.message, error.lost, self._clock() + AGAIN_S)
                self._refused.move_to_end(asked)
                if len(self._refused) > REFUSALS_MAX:
                    self._refused.popitem(last=False)
            raise
