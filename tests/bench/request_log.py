"""How many requests an S3 server answered, by its own log: so every client is counted alike."""

import socket
import threading
from collections import Counter

_METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")

_METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")


class RequestCounter:
    """Receives a line a request on a UDP port of loopback."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        threading.Thread(target=self._receive, name="requests", daemon=True).start()

    def take(self) -> dict[str, int]:
        """Requests by method since the last call."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(sorted(taken.items()))

    def _receive(self) -> None:
        while True:
            words = self._socket.recv(65536).decode("ascii", "replace").split()
            if words[1:2] == ["-"]:
                continue  # Swift's own: it has no client's address.
            method = next((word for word in words if word in _METHODS), "other")
            with self._lock:
                self._counts[method] += 1
