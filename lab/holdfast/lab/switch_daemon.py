"""The Ethernet switch between the guests: one process, one epoll loop.

Two segments share it. On the data segment every guest and the host meet as on any switch: addresses
are learned, unknown ones flooded, and each link obeys `Links`. On the management segment each guest
meets only the host, and no fault ever applies: over it the lab talks to the agent in the guest.

A guest's port is one end of a datagram socket pair, so a frame is never torn; the guest's end
is handed out over the control socket, again at each boot. The host's ports are tap devices. A full
receiver's frames wait here in order, up to a limit past which they are lost, as on a real switch.

Started by `switch.start_switch` inside the lab's network namespace, with a listening control
socket as its only argument's descriptor. It ends when it is killed.
"""

import fcntl
import heapq
import itertools
import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from holdfast.lab.links import Links

HOST = "host"
DATA_TAP = "lab0"
MANAGEMENT_TAP = "manage0"
DATA, MANAGEMENT = "data", "management"

_FRAME_BYTES = 16 * 1024
_BATCH_FRAMES = 64  # read from one port before the others have their turn
_QUEUE_FRAMES = 16 * 1024  # waiting for one slow port; beyond, frames are lost
_HELD_FRAMES = 256 * 1024  # held back by delays, in all
_SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
_UNIX_QUEUE_FRAMES = 2048  # frames in a socket pair; the kernel's own default is 10
_MESSAGE_BYTES = 64 * 1024
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Port:
    """A place where frames come in and go out."""

    def __init__(self, name: str, segment: str, descriptor: int) -> None:
        self.name = name
        self.segment = segment
        self.descriptor = descriptor
        self.waiting: deque[bytes] = deque()
        self.lost_frames = 0


class Switch:
    """Ports, learned addresses, faults, and frames held back by a delay."""

    def __init__(self, control: socket.socket) -> None:
        self.links = Links()
        self._control = control
        self._epoll = select.epoll()
        self._ports: dict[int, Port] = {}
        self._by_name: dict[tuple[str, str], Port] = {}
        self._learned: dict[tuple[str, bytes], Port] = {}
        self._clients: dict[int, socket.socket] = {}
        self._held: list[tuple[float, int, Port, str, bytes]] = []
        self._order = itertools.count()
        self._last_due: dict[tuple[str, str], float] = {}
        self._epoll.register(control.fileno(), select.EPOLLIN)

    def add_port(self, name: str, segment: str, descriptor: int) -> None:
        """Add a port; one of the same name and segment is replaced (a guest boots again)."""
        old = self._by_name.get((segment, name))
        if old:
            self.remove_port(old)
        os.set_blocking(descriptor, False)
        port = Port(name, segment, descriptor)
        self._ports[descriptor] = self._by_name[segment, name] = port
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove_port(self, port: Port) -> None:
        """Forget a port and what it had been learned to reach."""
        self._epoll.unregister(port.descriptor)
        os.close(port.descriptor)
        del self._ports[port.descriptor], self._by_name[port.segment, port.name]
        self._learned = {k: p for k, p in self._learned.items() if p is not port}

    def run(self) -> None:
        """Move frames until killed."""
        while True:
            for descriptor, events in self._epoll.poll(self._wait_s()):
                port = self._ports.get(descriptor)
                if port is None:
                    self._control_event(descriptor)
                    continue
                if events & select.EPOLLOUT:
                    self._flush(port)
                if events & ~select.EPOLLOUT:
                    self._receive(port)
            if self._held:
                self._release()

    def _wait_s(self) -> float:
        return max(0.0, self._held[0][0] - time.monotonic()) if self._held else -1

    def _receive(self, port: Port) -> None:
        read, descriptor, segment, learned = os.read, port.descriptor, port.segment, self._learned
        for _ in range(_BATCH_FRAMES):
            try:
                frame = read(descriptor, _FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                return  # the guest's end is closed; its next boot brings a new one
            if len(frame) < 14:
                return
            learned[segment, frame[6:12]] = port
            target = learned.get((segment, frame[0:6]))
            if target is not None:
                if target is not port:
                    self._forward(port, target, frame)
            else:
                self._flood(port, frame)

    def _flood(self, source: Port, frame: bytes) -> None:
        for target in list(self._ports.values()):
            if target is not source and target.segment == source.segment:
                self._forward(source, target, frame)

    def _forward(self, source: Port, target: Port, frame: bytes) -> None:
        if source.segment == MANAGEMENT:
            if HOST in (source.name, target.name):
                self._send(target, frame)
            return
        if self.links.faults:
            fault = self.links.faults.get((source.name, target.name))
            if fault:
                if not fault.cut:
                    self._hold(source, target, frame, fault.delay_s)
                return
        if self._held and self._last_due.get((source.name, target.name), 0) > time.monotonic():
            self._hold(source, target, frame, 0.0)  # never overtake a frame that is held back
            return
        self._send(target, frame)

    def _hold(self, source: Port, target: Port, frame: bytes, delay_s: float) -> None:
        if len(self._held) >= _HELD_FRAMES:
            target.lost_frames += 1
            return
        pair = (source.name, target.name)
        due_s = max(time.monotonic() + delay_s, self._last_due.get(pair, 0.0))
        self._last_due[pair] = due_s
        heapq.heappush(self._held, (due_s, next(self._order), target, source.name, frame))

    def _release(self) -> None:
        now_s = time.monotonic()
        while self._held and self._held[0][0] <= now_s:
            _, _, target, source_name, frame = heapq.heappop(self._held)
            fault = self.links.faults.get((source_name, target.name))
            if self._ports.get(target.descriptor) is target and not (fault and fault.cut):
                self._send(target, frame)

    def _send(self, port: Port, frame: bytes) -> None:
        if port.waiting:
            self._queue(port, frame)
            return
        try:
            os.write(port.descriptor, frame)
        except BlockingIOError:
            self._queue(port, frame)
            self._epoll.modify(port.descriptor, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            port.lost_frames += 1  # nobody at the other end

    def _queue(self, port: Port, frame: bytes) -> None:
        if len(port.waiting) < _QUEUE_FRAMES:
            port.waiting.append(frame)
        else:
            port.lost_frames += 1

    def _flush(self, port: Port) -> None:
        waiting = port.waiting
        while waiting:
            try:
                os.write(port.descriptor, waiting[0])
            except BlockingIOError:
                return
            except OSError:
                port.lost_frames += len(waiting)
                waiting.clear()
                break
            waiting.popleft()
        self._epoll.modify(port.descriptor, select.EPOLLIN)

    def _control_event(self, descriptor: int) -> None:
        if descriptor == self._control.fileno():
            client, _ = self._control.accept()
            self._clients[client.fileno()] = client
            self._epoll.register(client.fileno(), select.EPOLLIN)
            return
        client = self._clients[descriptor]
        message = client.recv(_MESSAGE_BYTES)
        if message:
            self._answer(client, json.loads(message))
            return
        self._epoll.unregister(descriptor)
        del self._clients[descriptor]
        client.close()

    def _answer(self, client: socket.socket, request: dict[str, Any]) -> None:
        descriptors: list[int] = []
        try:
            reply: dict[str, Any] = {"ok": True, **self._obey(request, descriptors)}
        except (KeyError, ValueError, OSError) as error:
            reply = {"ok": False, "error": str(error)}
        socket.send_fds(client, [json.dumps(reply).encode()], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def _obey(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        match request["op"]:
            case "attach":
                for segment in (DATA, MANAGEMENT):
                    ours, theirs = _frame_pair()
                    self.add_port(request["name"], segment, ours)
                    descriptors.append(theirs)
            case "cut":
                self.links.cut(request["a"], request["b"], request["one_way"])
            case "delay":
                delay_s = request["delay_s"]
                self.links.delay(request["a"], request["b"], delay_s, request["one_way"])
            case "mend":
                self.links.mend(request["a"], request["b"])
            case "mend_all":
                self.links.mend_all()
            case "status":
                return self._status()
            case other:
                raise ValueError(f"unknown request '{other}'")
        return {}

    def _status(self) -> dict[str, Any]:
        faults = [
            {"from": a, "to": b, "cut": fault.cut, "delay_ms": fault.delay_s * 1000}
            for (a, b), fault in sorted(self.links.faults.items())
        ]
        lost = {p.name: p.lost_frames for p in self._ports.values() if p.segment == DATA}
        return {"ports": sorted(lost), "faults": faults, "lost_frames": lost}


def _frame_pair() -> tuple[int, int]:
    """A datagram socket pair with large buffers: the switch's end, the guest's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    return ours.detach(), theirs.detach()


def _open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    return descriptor


def main() -> None:
    """Run the switch on the control socket whose descriptor is the first argument."""
    Path("/proc/sys/net/unix/max_dgram_qlen").write_text(str(_UNIX_QUEUE_FRAMES))
    switch = Switch(socket.socket(fileno=int(sys.argv[1])))
    switch.add_port(HOST, DATA, _open_tap(DATA_TAP))
    switch.add_port(HOST, MANAGEMENT, _open_tap(MANAGEMENT_TAP))
    switch.run()


if __name__ == "__main__":
    main()
