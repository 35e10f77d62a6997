"""The TCMU ring of a primary: opened when its backstore is there, closed with the role."""

import logging

from holdfast.base.device import Device
from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop
from holdfast.target.control import DesiredRing
from holdfast.target.executor import RingServer
from holdfast.target.uio import open_uio

log = logging.getLogger(__name__)


class Ring:
    """Loop thread only."""

    def __init__(self, loop: Loop, device: Device, volume_uid: str) -> None:
        self._loop = loop
        self._device = device
        self._uid = volume_uid
        self._served: DesiredRing | None = None
        self._server: RingServer | None = None
        self.trouble = ""

    @property
    def is_open(self) -> bool:
        return self._server is not None

    def apply(self, wanted: DesiredRing | None) -> None:
        """Serve `wanted`, and nothing else."""
        if wanted == self._served and (self._server is not None) == (wanted is not None):
            return
        self.close()
        self._served = wanted
        if wanted is None:
            return
        try:
            self._server = RingServer(
                self._loop, open_uio(wanted.configfs, wanted.uio), self._device, self._uid
            )
        except HoldfastError as error:
            self.trouble = error.message
            log.error("%s", error)

    def close(self) -> None:
        self.trouble = ""
        if self._server is not None:
            self._server.close()
            self._server = None
