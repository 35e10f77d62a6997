"""Keeping a lease alive: a thread that renews it, takes a new one when it is lost, and says so."""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.base.errors import HoldfastError
from holdfast.metadata.etcd import Etcd, LeaseGone

_LOG = logging.getLogger(__name__)
RETRY_S = 0.5


class LeaseKeeper:
    """Holds a lease from `start` to `stop`, and keys on it.

    Args:
        attach: called with the lease's id whenever there is a new or adopted one, to put the keys on it.
            It must be idempotent; if it raises a HoldfastError it is called again a little later.
        adopt_lease_id: a lease held before a restart. It is kept if it still lives and has the same TTL;
            with another TTL the keys move to a new one, and it is ended.
        on_lost: called when etcd has said that the lease is gone, before another is taken. An etcd that
            does not answer is not a loss: see `renewed_ago_s`.
    """

    def __init__(
        self,
        etcd: Etcd,
        ttl_s: int,
        attach: Callable[[int], None],
        adopt_lease_id: int = 0,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._etcd = etcd
        self._ttl_s = ttl_s
        self._attach = attach
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._attached = threading.Event()
        self._renewed_at_s = 0.0
        self._lease_id = self._adopted_id = adopt_lease_id
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def lease_id(self) -> int:
        """The lease now held, or 0."""
        return self._lease_id if self._attached.is_set() else 0

    def renewed_ago_s(self) -> float:
        """Seconds since the sending of the last renewal that was answered."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self._renewed_at_s

    def start(self) -> None:
        self._thread.start()

    def wait_attached(self, timeout_s: float) -> bool:
        """Whether, within `timeout_s`, a lease is held and `attach` was done with it."""
        return self._attached.wait(timeout_s)

    def stop(self, revoke: bool = True) -> None:
        """End. With `revoke` the keys go at once; without, another process may adopt the lease."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        lease_id, self._lease_id = self.lease_id, 0
        if revoke and lease_id:
            try:
                self._etcd.revoke_lease(lease_id)
            except HoldfastError as error:
                _LOG.warning("lease %x is left to expire: %s", lease_id, error)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                wait_s = self._step()
            except LeaseGone:
                was_attached = self._attached.is_set()
                self._attached.clear()
                self._lease_id = 0
                if was_attached:
                    self._on_lost()
                wait_s = 0.0
            except HoldfastError as error:
                _LOG.warning("the lease could not be renewed: %s", error)
                wait_s = RETRY_S
            except Exception:
                # Whatever it is (a disk that cannot be asked for its size): without this thread the host is
                # taken for dead, and stays so.
                _LOG.exception("the lease could not be renewed")
                wait_s = RETRY_S
            self._stop.wait(wait_s)

    def _step(self) -> float:
        """Take, renew or attach, whichever is due; seconds until the next step."""
        sent_at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        outlived = 0
        if self._lease_id:
            ttl_s = self._etcd.keep_alive(self._lease_id)
            if ttl_s != self._ttl_s and not self._attached.is_set() and self._lease_id == self._adopted_id:
                outlived, self._lease_id = self._lease_id, 0
        if not self._lease_id:
            self._lease_id = self._etcd.grant_lease(self._ttl_s)
        self._renewed_at_s = sent_at_s
        if not self._attached.is_set():
            self._attach(self._lease_id)
            self._attached.set()
        if outlived:
            # The keys have moved: nothing goes with it. If this is lost, it ends by itself.
            self._etcd.revoke_lease(outlived)
        return self._ttl_s / 3
