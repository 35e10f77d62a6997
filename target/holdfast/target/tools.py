"""What the agent's parts work with, handed to each."""

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

from holdfast.base.loop import Loop
from holdfast.metadata.host_actions import HostActions
from holdfast.target.lio import Lio
from holdfast.target.reconcile import Host
from holdfast.target.syncs import Syncs
from holdfast.target.upgrades import Upgrades
from holdfast.target.workers import Workers


class InPool(Protocol):
    def __call__(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], object],
        failed: Callable[[BaseException], object],
        /,
    ) -> None: ...


class Tools:
    """What every volume's agent works with."""

    def __init__(
        self,
        loop: Loop,
        actions: HostActions,
        lio: Lio,
        workers: Workers,
        store: Path,
        seal_key: bytes,
        in_lio_pool: InPool,
        host: Callable[[], Host],
        urgent: Executor,
        sends: Syncs,
        receives: Syncs,
        upgrades: Upgrades,
    ) -> None:
        self.loop = loop
        self.actions = actions
        self.lio = lio
        self.workers = workers
        self.store = store
        self.seal_key = seal_key
        self.in_lio_pool = in_lio_pool
        self.host = host
        self.urgent = urgent
        """Threads for changes of membership alone."""
        self.sends = sends
        """Turns of the volumes whose primary is here."""
        self.receives = receives
        """Turns of the copies here that are not in sync."""
        self.upgrades = upgrades
