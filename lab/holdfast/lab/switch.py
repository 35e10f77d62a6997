"""The lab's Ethernet switch as its users see it: links by name that can be cut, delayed, mended."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

from holdfast.lab import netns, unix_socket
from holdfast.lab.errors import LabError
from holdfast.lab.processes import launch

_CONTROL = "switch.sock"
_REPLY_LIMIT_S = 60.0
_MESSAGE_BYTES = 64 * 1024


class Switch:
    """Talks to the switch process of one lab. Ports are guests' names, and "host"."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Lose every frame between a and b; only those from a to b if `one_way`."""
        self._ask(op="cut", a=self._known(a), b=self._known(b), one_way=one_way)

    def delay(self, a: str, b: str, delay_ms: float, *, one_way: bool = False) -> None:
        """Hold every frame back by so many milliseconds, in each direction or from a to b only."""
        delay_s = delay_ms / 1000
        self._ask(op="delay", a=self._known(a), b=self._known(b), delay_s=delay_s, one_way=one_way)

    def isolate(self, name: str) -> None:
        """Cut a port off from every other."""
        for other in self.status()["ports"]:
            if other != name:
                self.cut(name, other)

    def mend(self, a: str, b: str) -> None:
        """Undo cuts and delays between a and b, in both directions."""
        self._ask(op="mend", a=self._known(a), b=self._known(b))

    def mend_all(self) -> None:
        """Undo every cut and delay."""
        self._ask(op="mend_all")

    def status(self) -> dict[str, Any]:
        """`ports`, `faults` (from, to, cut, delay_ms), `lost_frames` by port."""
        return self._ask(op="status")

    def attach(self, name: str) -> tuple[int, int]:
        """Make (or renew) a guest's ports: the guest's ends, data and management, now ours."""
        descriptors: list[int] = []
        self._ask(descriptors, op="attach", name=name)
        data, management = descriptors
        return data, management

    def _known(self, name: str) -> str:
        ports = self.status()["ports"]
        if name not in ports:
            raise LabError(f"no port '{name}' on the switch; there are: {', '.join(ports)}")
        return name

    def _ask(self, descriptors: list[int] | None = None, **request: Any) -> dict[str, Any]:
        try:
            sock = unix_socket.connect(self._folder / _CONTROL, _REPLY_LIMIT_S)
        except (FileNotFoundError, ConnectionRefusedError):
            raise LabError(f"no switch runs for the lab in {self._folder}: bring it up") from None
        with sock:
            sock.send(json.dumps(request).encode())
            message, received, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, 8)
        reply: dict[str, Any] = json.loads(message)
        if not reply.pop("ok"):
            raise LabError(f"the switch refused: {reply['error']}")
        if descriptors is not None:
            descriptors.extend(received)
        return reply


def start_switch(folder: Path, record: Path, namespace: str) -> Switch:
    """Start the switch process in the lab's namespace and wait until it answers."""
    module = Path(__file__).with_name("switch_daemon.py")
    with unix_socket.listen(folder / _CONTROL) as control, open(folder / "switch.log", "ab") as log:
        command = [sys.executable, "-m", f"holdfast.lab.{module.stem}", str(control.fileno())]
        launch(
            record,
            netns.inside(namespace, command),
            stdout=log,
            stderr=log,
            pass_fds=[control.fileno()],
        )
    switch = Switch(folder)
    try:
        switch.status()
    except (OSError, ValueError, LabError) as error:
        tail = (folder / "switch.log").read_text(errors="replace")[-500:]
        raise LabError(f"the switch did not start: {error}\n{tail}") from error
    return switch
