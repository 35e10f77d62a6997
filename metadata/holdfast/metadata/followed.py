"""What the loops of the service look at, and how they go round: records as a watch says they are, and a
thread that looks again and again.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic

from holdfast.base.errors import HoldfastError
from holdfast.metadata.etcd import Etcd, Event
from holdfast.metadata.follow import follow
from holdfast.metadata.records import M, decode

_LOG = logging.getLogger(__name__)
TICK_S = 2.0
"""Between two looks, half more or less by chance: several copies of the service take turns."""


class Followed(Generic[M]):
    """All records below a prefix, as a watch says they are. `ready` once they were listed.

    Args:
        wanted: only those records are kept for which it is true.
    """

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        message_type: type[M],
        stop: threading.Event,
        wanted: Callable[[M], bool] = lambda record: True,
    ) -> None:
        self._etcd, self._prefix, self._type, self._stop = etcd, prefix, message_type, stop
        self._wanted = wanted
        self._lock = threading.Lock()
        self._records: dict[str, M] = {}
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"follow {prefix}", daemon=True)

    def records(self) -> dict[str, M]:
        """By what follows the prefix. Nobody changes them."""
        with self._lock:
            return dict(self._records)

    def _run(self) -> None:
        for events in follow(self._etcd, self._prefix, self._stop):
            with self._lock:
                for event in events:
                    self._apply(event)
            self.ready.set()

    def _apply(self, event: Event) -> None:
        name = event.key.removeprefix(self._prefix)
        self._records.pop(name, None)
        try:
            if event.entry is not None:
                record = decode(self._type, event.entry.value)
                if self._wanted(record):
                    self._records[name] = record
        except HoldfastError as error:
            _LOG.error("%s is passed over: %s", event.key, error)


class Rounds:
    """Calls `look` every few seconds, from `start` to `stop`, once everything followed has been listed."""

    def __init__(
        self,
        name: str,
        look: Callable[[], None],
        followed: Sequence[Followed[Any]],
        stop: threading.Event,
        tick_s: float,
    ) -> None:
        self._name, self._look, self._followed = name, look, followed
        self._stop, self._tick_s = stop, tick_s
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        for one in self._followed:
            one.thread.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in (self._thread, *(one.thread for one in self._followed)):
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._tick_s * random.uniform(0.5, 1.5)):
            if not all(one.ready.is_set() for one in self._followed):
                continue
            try:
                self._look()
            except HoldfastError as error:
                _LOG.warning("the %s could not look: %s", self._name, error)
            except Exception:
                # A defect in one look must not end all of them.
                _LOG.exception("the %s failed", self._name)
