"""What a worker does in each role: the primary owns the link, the gate and the ring; the mirror waits for
its session.
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop
from holdfast.base.steps import run
from holdfast.base.tls import TlsFiles, client_context
from holdfast.replicator.align import align
from holdfast.replicator.clean import CLEAN_INTERVAL_S, clean
from holdfast.replicator.freeze import freeze
from holdfast.replicator.hydrate import Hydrator, Source
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mirror import Drain, MirrorExport
from holdfast.replicator.primary import Primary
from holdfast.target.control import Desired
from holdfast.target.worker_link import dial
from holdfast.target.worker_ring import Ring

log = logging.getLogger(__name__)

Trouble = tuple[str, str]


class PrimaryRole:
    """The primary of one epoch."""

    def __init__(
        self,
        loop: Loop,
        local: LocalReplica,
        host_id: str,
        desired: Desired,
        tls: TlsFiles | None,
        source: Callable[[], Source | None],
    ) -> None:
        self._loop = loop
        self._local = local
        self._source = source
        context = client_context(tls) if tls else None
        peer = desired.peer
        self._link = Link(
            loop, partial(dial, loop, desired, context), partial(align, local, host_id, desired.epoch)
        )
        self._hydrator = Hydrator(loop, local.store)
        self._primary = Primary(loop, local, self._link, self._hydrator)
        self._ring = Ring(loop, self._primary, desired.volume_uid)
        self._wanted: tuple[str, ...] = ()
        self._busy = False
        self._frozen: set[str] = set()
        self._cleaned_at = loop.now()
        self._mirror = f"{peer.host_id} at {peer.address}:{peer.nbd_port}"
        self.on_change: Callable[[], None] = lambda: None
        self._link.on_change = self._link_changed
        self._hydrator.on_change = lambda: self.on_change()
        self._link.start()

    @property
    def peer_connected(self) -> bool:
        return self._link.up

    @property
    def serving(self) -> bool:
        return self._link.up

    @property
    def ring_open(self) -> bool:
        return self._ring.is_open

    def apply(self, desired: Desired) -> None:
        if desired.origin_snapshot_uid:
            self._hydrator.use(self._source())
        self._ring.apply(desired.ring)
        self._wanted = tuple(snapshot.uid for snapshot in desired.snapshots if snapshot.freeze)
        # A view that was recorded and flushed on both hosts in an earlier life of this worker.
        kept = {snapshot.uid for snapshot in desired.snapshots if not snapshot.freeze}
        self._frozen |= kept & self._local.store.state.views.keys()
        self._work()

    def trouble(self) -> Trouble:
        if not self._link.up:
            return (
                "MIRROR_LOST",
                f"the mirror {self._mirror} is out of reach ({self._link.why_down}); writes wait for it.",
            )
        if self._ring.trouble:
            return ("RING_FAILED", self._ring.trouble)
        if self._hydrator.trouble and self._local.store.missing.left:
            return ("ORIGIN_UNREACHABLE", f"{self._hydrator.trouble}; extents not yet here wait for it.")
        return ("", "")

    def hydration(self) -> tuple[int, int]:
        return self._hydrator.remaining_bytes, self._hydrator.total_bytes

    def frozen(self) -> set[str]:
        """Views that are recorded and on disk on both hosts."""
        return self._frozen

    def tick(self) -> None:
        self._work()
        if self._link.up:
            self._hydrator.go_on()

    def close(self) -> None:
        # The device before the ring: what is under way reads from the ring's memory.
        self._hydrator.stop()
        self._primary.close()
        self._ring.close()
        self._link.close()

    def _link_changed(self) -> None:
        if self._link.up:
            self._primary.release_held()
            self._hydrator.go_on()
            self._work()
        self.on_change()

    def _work(self) -> None:
        """Do the next thing that needs both hosts: a freeze, or a clean; one at a time."""
        if self._busy or not self._link.up:
            return
        views = self._local.store.state.views
        pending = [
            uid for uid in self._wanted if uid not in self._frozen and uid not in self._local.views.lost()
        ]
        if pending:
            uid = pending[0]
            if uid in views:
                # Recorded, and the worker or the link failed before the last flush: freeze anew.
                self._local.views.drop(uid)
            self._begin(f"freezing {uid}", freeze(self._loop, self._primary, self._link, uid), uid)
        elif self._loop.now() - self._cleaned_at >= CLEAN_INTERVAL_S:
            self._cleaned_at = self._loop.now()
            self._begin("cleaning", clean(self._local, self._link), "")

    def _begin(self, what: str, steps: object, frozen: str) -> None:
        self._busy = True

        def done(_result: object) -> None:
            self._busy = False
            if frozen:
                self._frozen.add(frozen)
                self.on_change()
            self._loop.call_soon(self._work)

        def failed(error: Exception) -> None:
            self._busy = False
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("%s failed, will try again: %s", what, error)

        run(steps, done, failed)  # type: ignore[arg-type]


class MirrorRole:
    """The mirror of one epoch: it has at most one session, from the primary."""

    ring_open = False

    def __init__(self, local: LocalReplica) -> None:
        self._local = local
        self._drain = Drain()
        self.on_change: Callable[[], None] = lambda: None

    def session(self) -> MirrorExport:
        export = MirrorExport(self._local, self._drain)
        export.on_change = lambda: self.on_change()
        return export

    @property
    def peer_connected(self) -> bool:
        return self._drain.current is not None

    @property
    def serving(self) -> bool:
        return self._drain.current is not None

    def apply(self, desired: Desired) -> None:
        pass

    def trouble(self) -> Trouble:
        if self._drain.current is None:
            return ("PRIMARY_ABSENT", "the primary has no session to this mirror.")
        return ("", "")

    def frozen(self) -> set[str]:
        return set(self._local.store.state.views)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        if self._drain.current is not None:
            self._drain.current.end()
