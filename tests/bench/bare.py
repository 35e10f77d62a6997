"""The system calls of a worker and nothing else: the limit of what Python can do here.

    bare.py primary PLAN    waits for counts, moves so many blocks to its file (and to a mirror), signals
    bare.py mirror PLAN     receives blocks with a header each, writes them, answers 16 bytes for each

No order, no bits, no checks, no ring: a loop over preallocated lists. One pwritev or preadv a block; for a
batch one sendmsg, one signal, and one recv of whatever answers have come, as in a worker.
"""

import json
import os
import random
import select
import socket
import sys

HEADER_BYTES, REPLY_BYTES = 28, 16


def main() -> None:
    plan = json.loads(sys.argv[2])
    fd = os.open(plan["file"], os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, max(plan["span"], os.fstat(fd).st_size))
    if sys.argv[1] == "mirror":
        _mirror(plan, fd)
    else:
        _primary(plan, fd)


def _offsets(plan: dict[str, int]) -> list[int]:
    pieces = plan["span"] // plan["size"]
    if plan["sequential"]:
        return [index * plan["size"] for index in range(pieces)]
    rng = random.Random(1)
    return [rng.randrange(pieces) * plan["size"] for _ in range(50_000)]


def _primary(plan: dict[str, int], fd: int) -> None:
    _memory_fd, event_fd, signal_fd = plan["fds"]  # type: ignore[misc]
    size, move = plan["size"], os.preadv if plan["reading"] else os.pwritev
    pieces = [memoryview(bytearray(size)) for _ in range(64)]
    offsets, at = _offsets(plan), 0
    epoll = select.epoll()
    epoll.register(event_fd, select.EPOLLIN)
    sock, header, answers = None, bytes(HEADER_BYTES), bytearray(65536)
    if plan["port"]:
        sock = socket.create_connection(("127.0.0.1", plan["port"]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(sock.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    left = 0
    while True:
        for ready, _events in epoll.poll():
            if ready == event_fd:
                count = os.eventfd_read(event_fd)
                if sock is not None:
                    _send(sock, [part for one in pieces[:count] for part in (header, one)])
                for piece in pieces[:count]:
                    move(fd, [piece], offsets[at])
                    at = (at + 1) % len(offsets)
            else:
                assert sock is not None
                left += sock.recv_into(answers)
                count, left = divmod(left, REPLY_BYTES)
            if (sock is None) == (ready == event_fd) and count:
                os.eventfd_write(signal_fd, count)


def _send(sock: socket.socket, batch: list[bytes | memoryview]) -> None:
    sent, whole = sock.sendmsg(batch), sum(map(len, batch))
    if sent < whole:
        sock.sendall(b"".join(batch)[sent:])


def _mirror(plan: dict[str, int], fd: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    sock, _address = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = plan["size"]
    frame, buffer = size + HEADER_BYTES, memoryview(bytearray(max(256 * 1024, 2 * size)))
    offsets, at, held = _offsets(plan), 0, 0
    epoll = select.epoll()
    epoll.register(sock.fileno(), select.EPOLLIN)
    while True:
        epoll.poll()
        got = sock.recv_into(buffer[held:])
        if not got:
            return
        held += got
        count, held = divmod(held, frame)
        for index in range(count):
            start = index * frame + HEADER_BYTES
            os.pwritev(fd, [buffer[start : start + size]], offsets[at])
            at = (at + 1) % len(offsets)
        if count:
            buffer[:held] = bytes(buffer[count * frame : count * frame + held])
            sock.sendall(bytes(REPLY_BYTES * count))


main()
