"""The server's health: SERVING while etcd answers. Asked once a second, beside the calls' own errors."""

import logging
import threading

from grpc_health.v1 import health, health_pb2

from holdfast.base.errors import Unavailable
from holdfast.metadata import keys
from holdfast.metadata.etcd import Etcd

_LOG = logging.getLogger(__name__)
CHECK_EVERY_S = 1.0


class HealthKeeper:
    def __init__(self, etcd: Etcd, services: list[str], every_s: float = CHECK_EVERY_S) -> None:
        self.servicer = health.HealthServicer()
        self._etcd = etcd
        self._services = ["", *services]
        self._every_s = every_s
        self._stop = threading.Event()
        self._serving: bool | None = None
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        self._set(False)
        self._thread.start()

    def stop(self) -> None:
        """NOT_SERVING from now on."""
        self._stop.set()
        self._thread.join()
        self.servicer.enter_graceful_shutdown()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._etcd.get(keys.PREFIX)
                self._set(True)
            except Unavailable as error:
                self._set(False, str(error))
            self._stop.wait(self._every_s)

    def _set(self, serving: bool, why: str = "") -> None:
        if serving == self._serving:
            return
        self._serving = serving
        answers = health_pb2.HealthCheckResponse
        status = answers.SERVING if serving else answers.NOT_SERVING
        for name in self._services:
            self.servicer.set(name, status)
        _LOG.info("health: %s %s", "SERVING" if serving else "NOT_SERVING", why)
