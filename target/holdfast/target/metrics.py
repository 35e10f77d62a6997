"""What workers have counted, as text for Prometheus (its exposition format, version 0.0.4), over HTTP.

It tells how much each volume is used, by uid: no names, no bytes. Whoever may reach the address may read it.
"""

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from holdfast.base import ids
from holdfast.target import meter

log = logging.getLogger(__name__)

CLIENT_MAX_S = 10.0


def text(run_dir: Path) -> str:
    """All of a host's volumes."""
    found = {path.stem: meter.read(path) for path in sorted(run_dir.glob("*.meter")) if ids.is_uid(path.stem)}
    counts = {uid: one for uid, one in found.items() if one is not None}
    lines = [
        "# HELP holdfast_io_seconds How long initiators waited for requests that ended well.",
        "# TYPE holdfast_io_seconds histogram",
        *(line for uid, one in counts.items() for line in _histograms(uid, one)),
        "# HELP holdfast_io_bytes_total Bytes of those requests.",
        "# TYPE holdfast_io_bytes_total counter",
        *(
            f'holdfast_io_bytes_total{{volume="{uid}",op="{op}"}} {kind.bytes}'
            for uid, one in counts.items()
            for op, kind in one.kinds.items()
        ),
        "# HELP holdfast_io_refused_total Requests that ended otherwise: BUSY is tried again by initiators.",
        "# TYPE holdfast_io_refused_total counter",
    ]
    for uid, one in counts.items():
        lines.append(f'holdfast_io_refused_total{{volume="{uid}",status="busy"}} {one.busy}')
        lines.append(f'holdfast_io_refused_total{{volume="{uid}",status="check_condition"}} {one.checked}')
    return "\n".join(lines) + "\n"


def _histograms(uid: str, counts: meter.Counts) -> Iterator[str]:
    for op, kind in counts.kinds.items():
        labels = f'volume="{uid}",op="{op}"'
        total = 0
        for place, count in enumerate(kind.buckets[:-1]):
            total += count
            yield f'holdfast_io_seconds_bucket{{{labels},le="{2**place / 1e6:g}"}} {total}'
        total += kind.buckets[-1]
        yield f'holdfast_io_seconds_bucket{{{labels},le="+Inf"}} {total}'
        yield f"holdfast_io_seconds_sum{{{labels}}} {kind.us / 1e6:.6f}"
        yield f"holdfast_io_seconds_count{{{labels}}} {total}"


def serve(address: str, port: int, run_dir: Path) -> ThreadingHTTPServer:
    """Answer GET /metrics there, in a thread, until `shutdown`. Raises OSError."""

    class Handler(_Handler):
        folder = run_dir

    server = ThreadingHTTPServer((address, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    folder: ClassVar[Path]
    timeout = CLIENT_MAX_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "There is only /metrics here.")
            return
        content = text(self.folder).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        log.debug(format, *arguments)
