"""One watch of etcd per server, shared by all watching clients.

A subscriber names keys and is woken when one changes; what it then shows it reads anew. So a client that
is slow sees fewer, newer states and never holds up the others, and a client costs no watch in etcd.
"""

import logging
import threading
from collections.abc import Sequence

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.metadata import keys
from holdfast.metadata.etcd import Compacted, Etcd

_LOG = logging.getLogger(__name__)
RETRY_S = 0.5


class Subscription:
    """Woken when one of its keys changes. It begins woken, so that the first look is not forgotten."""

    def __init__(self, feed: "Feed", keys_: Sequence[str]) -> None:
        self.keys = tuple(keys_)
        self._feed = feed
        self._woken = threading.Event()
        self._woken.set()
        self._closed = False

    def wait(self) -> bool:
        """Wait until woken. False once closed. Raises Unavailable SHUTTING_DOWN if the server stops."""
        self._woken.wait()
        self._woken.clear()
        if self._feed.stopped.is_set():
            raise Unavailable("SHUTTING_DOWN", "The metadata service is stopping: watch again.")
        return not self._closed

    def wake(self) -> None:
        self._woken.set()

    def wake_later(self) -> None:
        """Look again after a pause: what this was woken for could not be read."""
        self._feed.stopped.wait(RETRY_S)
        self._woken.set()

    def close(self) -> None:
        """Idempotent; from any thread."""
        self._closed = True
        self._feed.forget(self)
        self._woken.set()


class Feed:
    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._lock = threading.Lock()
        self._by_key: dict[str, set[Subscription]] = {}
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every subscription."""
        self.stopped.set()
        self._wake_all()
        if self._thread.is_alive():
            self._thread.join()

    def subscribe(self, keys_: Sequence[str]) -> Subscription:
        subscription = Subscription(self, keys_)
        with self._lock:
            for key in subscription.keys:
                self._by_key.setdefault(key, set()).add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        with self._lock:
            for key in subscription.keys:
                subscriptions = self._by_key.get(key, set())
                subscriptions.discard(subscription)
                if not subscriptions:
                    self._by_key.pop(key, None)

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                revision = self._etcd.range(keys.PREFIX, limit=1)[1]
                # Whatever happened before this watch began has woken nobody.
                self._wake_all()
                for events in self._etcd.watch(keys.PREFIX, revision + 1, self.stopped):
                    for event in events:
                        self._wake(event.key)
            except Compacted:
                continue
            except HoldfastError as error:
                _LOG.warning("the watch of etcd is interrupted: %s", error)
                self.stopped.wait(RETRY_S)

    def _wake(self, key: str) -> None:
        with self._lock:
            for subscription in self._by_key.get(key, ()):
                subscription.wake()

    def _wake_all(self) -> None:
        with self._lock:
            for subscriptions in self._by_key.values():
                for subscription in subscriptions:
                    subscription.wake()
