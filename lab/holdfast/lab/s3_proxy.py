"""An HTTP proxy in front of a real S3 server that goes wrong by rules: for tests, and to try a cluster out.

    with S3Proxy(swift.port) as proxy:
        proxy.rules.append(Rule("PUT", "pack-", Fault.LOST_ANSWER, times=2))
        open_store(f"s3://bucket?endpoint={proxy.endpoint_url}")

What it does is what networks, load balancers and object stores do. Clients sign what they send for the
proxy's address, and the server checks that, so nothing of a request can be changed here: an object that is
to be damaged at rest is damaged through the server (see s3_damage.py).
"""

import contextlib
import http.client
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import unescape

CHUNK_BYTES = 64 * 1024
SLOW_CHUNKS = 16
LATE_LOOKS = 2
"""So many times is an object that appears late looked for in vain."""
_NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}
_OURS = re.compile(r"snapshots/.*")
_LISTED = re.compile(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", re.DOTALL)


class Fault(Enum):
    """What goes wrong with one request."""

    INTERNAL = "internal"
    """500, and nothing is done."""
    SLOW_DOWN = "slow_down"
    """503, the same."""
    FORBIDDEN = "forbidden"
    """403, the same."""
    TIMEOUT = "timeout"
    """It is never answered, and nothing is done."""
    SLOW_REQUEST = "slow_request"
    """Its body goes on in small pieces, with pauses."""
    SLOW_ANSWER = "slow_answer"
    CUT_REQUEST = "cut_request"
    """The connection ends in the middle of its body, on both sides."""
    CUT_ANSWER = "cut_answer"
    LOST_ANSWER = "lost_answer"
    """It is done, and the answer is 500."""
    LOST_LINK = "lost_link"
    """It is done, and the connection ends without an answer."""
    FLIPPED_ANSWER = "flipped_answer"
    """One bit of the body is another one."""
    VANISHED = "vanished"
    """Of a PUT: it is acknowledged, and was never stored."""
    VANISHED_LATER = "vanished_later"
    """Of a PUT: it is stored and seen once, then it is gone, until it is put again."""
    LATE = "late"
    """Of a PUT: it is stored, and the first LATE_LOOKS looks for it find nothing."""


PUT_ONLY = (Fault.CUT_REQUEST, Fault.SLOW_REQUEST, Fault.VANISHED, Fault.VANISHED_LATER, Fault.LATE)
GET_ONLY = (Fault.CUT_ANSWER, Fault.SLOW_ANSWER, Fault.FLIPPED_ANSWER)


class Asked(NamedTuple):
    """A request: its method, and the object's name, from `snapshots/` on; "" if it is for none of ours."""

    method: str
    name: str


Choose = Callable[[Asked], Fault | None]


@dataclass
class Rule:
    """`fault` for requests of `method` ("" is any) on names that contain `part`: after the first `after` of
    them, `times` times."""

    method: str
    part: str
    fault: Fault
    after: int = 0
    times: int = 1 << 30
    seen: int = field(default=0, compare=False)

    def hits(self, asked: Asked) -> bool:
        if self.method not in ("", asked.method) or self.part not in asked.name:
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


class _Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class _CutOff(Exception):
    """The client is to see its connection end."""


class S3Proxy:
    """Serves from `start` (or `with`) to `stop`, at `endpoint_url`.

    Args:
        upstream_port: of the server, on loopback.
        pause_s: how long a slow body waits between two pieces.
    """

    def __init__(self, upstream_port: int, pause_s: float = 0.01) -> None:
        self.rules: list[Rule] = []
        self.chooser: Choose | None = None
        """Asked where no rule hits."""
        self.done: list[tuple[Asked, Fault]] = []
        """What went wrong, in order."""
        self.asked: list[Asked] = []
        """Everything that was asked, in order."""
        self.pause_s = pause_s
        self.upstream_port = upstream_port
        self._lock = threading.Lock()
        self._hidden: dict[str, int] = {}
        """How many more looks for an object find nothing."""
        self._vanishing: set[str] = set()
        """Gone, when they have been seen once."""
        self._server = _Server(self)
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> "S3Proxy":
        threading.Thread(target=self._server.serve_forever, name="s3-proxy", daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "S3Proxy":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def mend(self) -> None:
        """Nothing goes wrong from now on; what has vanished stays so."""
        with self._lock:
            self.rules.clear()
            self.chooser = None
            self._vanishing.clear()

    def choose(self, asked: Asked) -> Fault | None:
        """What goes wrong with this request."""
        with self._lock:
            self.asked.append(asked)
            # Every rule counts; the first that hits decides.
            hits = [rule.fault for rule in self.rules if rule.hits(asked)]
            fault = hits[0] if hits else self.chooser(asked) if self.chooser and asked.name else None
            if fault is not None:
                self.done.append((asked, fault))
            return fault

    def is_hidden(self, asked: Asked) -> bool:
        """Whether an object is not to be found now."""
        with self._lock:
            if asked.method not in ("GET", "HEAD"):
                return False
            left = self._hidden.get(asked.name, 0)
            if left:
                self._hidden[asked.name] = left - 1
            elif asked.name in self._vanishing:
                self._vanishing.discard(asked.name)
                self._hidden[asked.name] = 1 << 60
            return left > 0

    def listing(self, body: bytes) -> bytes:
        """A listing without what is not to be found now; for each object in it, it is a look."""

        def kept(found: "re.Match[bytes]") -> bytes:
            name = _OURS.search(unescape(found[1].decode()))
            return b"" if name and self.is_hidden(Asked("GET", name[0])) else found[0]

        return _LISTED.sub(kept, body)

    def stored(self, name: str, fault: Fault | None) -> None:
        """A PUT has been done."""
        with self._lock:
            self._hidden.pop(name, None)
            self._vanishing.discard(name)
            if fault is Fault.LATE:
                self._hidden[name] = LATE_LOOKS
            elif fault is Fault.VANISHED_LATER:
                self._vanishing.add(name)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: S3Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        self._serve()

    do_GET = do_HEAD = do_DELETE = do_POST = do_PUT

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _serve(self) -> None:
        found = _OURS.search(unquote(urlsplit(self.path).path))
        asked = Asked(self.command, found[0] if found else "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.server.proxy
        fault = proxy.choose(asked)
        try:
            self._answer(asked, body, fault)
        except (_CutOff, OSError, http.client.HTTPException):
            self.close_connection = True
            # The client is to see the end now, not when a thread is collected.
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, asked: Asked, body: bytes, fault: Fault | None) -> None:
        proxy = self.server.proxy
        refusal = _REFUSALS.get(fault) if fault else None
        if fault is Fault.TIMEOUT:
            self.connection.recv(1)  # Until the client has lost its patience.
            raise _CutOff
        if refusal is not None:
            self._send(refusal)
            return
        if proxy.is_hidden(asked):
            self._send(_error(404, "Not Found", "NoSuchKey"))
            return
        if fault is Fault.VANISHED:
            self._send(_Answer(200, "OK", [("ETag", '"0"')], b""))
            return
        answer = self._ask(body, fault)
        if asked.method == "PUT" and answer.status < 300:
            proxy.stored(asked.name, fault)
        if asked.method == "GET" and b"<ListBucketResult" in answer.body[:300]:
            answer = answer._replace(body=proxy.listing(answer.body))
        if fault is Fault.LOST_ANSWER:
            answer = _error(500, "Internal Server Error", "InternalError")
        elif fault is Fault.LOST_LINK:
            raise _CutOff
        elif fault is Fault.FLIPPED_ANSWER and answer.body:
            middle = len(answer.body) // 2
            flipped = bytes([answer.body[middle] ^ 0x10])
            answer = answer._replace(body=answer.body[:middle] + flipped + answer.body[middle + 1 :])
        self._send(answer, fault)

    def _ask(self, body: bytes, fault: Fault | None) -> _Answer:
        """The server's own answer."""
        proxy = self.server.proxy
        upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream_port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() not in _NOT_PASSED_ON:
                    upstream.putheader(key, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders()
            if fault is Fault.CUT_REQUEST:
                upstream.send(body[: len(body) // 2])
                raise _CutOff
            for piece in _pieces(body, fault is Fault.SLOW_REQUEST, proxy.pause_s):
                upstream.send(piece)
            found = upstream.getresponse()
            return _Answer(found.status, found.reason, found.getheaders(), found.read())
        finally:
            upstream.close()

    def _send(self, answer: _Answer, fault: Fault | None = None) -> None:
        self.send_response_only(answer.status, answer.reason)
        length = str(len(answer.body))
        for key, value in answer.headers:
            if key.lower() == "content-length" and self.command == "HEAD":
                length = value
            if key.lower() not in _NOT_PASSED_ON:
                self.send_header(key, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is Fault.CUT_ANSWER:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.wfile.flush()
            raise _CutOff
        for piece in _pieces(answer.body, fault is Fault.SLOW_ANSWER, self.server.proxy.pause_s):
            self.wfile.write(piece)


def _pieces(body: bytes, slow: bool, pause_s: float) -> Iterator[bytes]:
    step = max(1, len(body) // SLOW_CHUNKS) if slow else CHUNK_BYTES
    for at in range(0, len(body), step):
        if slow:
            threading.Event().wait(pause_s)
        yield body[at : at + step]


def _error(status: int, reason: str, code: str) -> _Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return _Answer(status, reason, [("Content-Type", "application/xml")], body)


_REFUSALS = {
    Fault.INTERNAL: _error(500, "Internal Server Error", "InternalError"),
    Fault.SLOW_DOWN: _error(503, "Service Unavailable", "SlowDown"),
    Fault.FORBIDDEN: _error(403, "Forbidden", "AccessDenied"),
}
