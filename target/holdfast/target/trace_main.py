"""`holdfast-trace`: where the time of a volume's requests goes, told by its worker. On the host, as root."""

import json
import socket
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import click

ANSWER_LIMIT_S = 10.0
SHOWN_SLOWEST = 5


class NoAnswer(Exception):
    """The worker is not there, or is of older code, which closes the connection."""


class Asker:
    """A connection to a worker's control socket (worker_control.py)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_LIMIT_S)
        self._number = 0
        try:
            self._socket.connect(str(path))
        except OSError as error:
            raise NoAnswer(f"{path}: {error.strerror or error}") from error
        self._lines = self._socket.makefile("rb")

    def ask(self, **trace: float) -> dict[str, Any]:
        """What there is of traces after the call; what the worker says of itself meanwhile is passed over."""
        self._number += 1
        call = {"id": self._number, "trace": trace}
        try:
            self._socket.sendall(json.dumps(call).encode() + b"\n")
            for line in self._lines:
                said = json.loads(line)
                if said["id"] == self._number and "traces" in said:
                    traces: dict[str, Any] = said["traces"]
                    return traces
        except OSError as error:
            raise NoAnswer(f"the worker does not answer: {error}") from error
        raise NoAnswer("the worker is of older code: it knows of no traces")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def summary(traces: dict[str, Any]) -> list[str]:
    """A line for each stage of each kind of request: how many passed it, and after how long."""
    lines = [f"{'':17}{'stage':10}{'passed':>8}{'median':>10}{'99 %':>10}   µs since it came"]
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in traces["recent"]:
        kinds[one["op"]].append(one)
    for kind, found in kinds.items():
        times: dict[str, list[int]] = defaultdict(list)
        for one in found:
            for stage, us in dict(one["stages"]).items():
                times[stage].append(us)
        for stage, values in sorted(times.items(), key=lambda item: median(item[1])):
            values.sort()
            late = values[len(values) * 99 // 100]
            lines.append(f"{kind:17}{stage:10}{len(values):8,}{median(values):10,.0f}{late:10,}")
    return lines


def story(one: dict[str, Any]) -> str:
    """One request, with the µs that each stage took after the one before."""
    before, parts = 0, []
    for stage, us in one["stages"]:
        parts.append(f"{stage} +{us - before:,}")
        before = us
    return f"{before:9,} µs  {one['op']} {one['length']} at {one['offset']}, {one['outcome']}: " + ", ".join(
        parts
    )


@click.command(context_settings={"show_default": True})
@click.argument("volume_uid")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), default=Path("/run/holdfast"), help="The agent's."
)
@click.option("--every", type=click.IntRange(1), default=200, help="Trace one request in so many.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=5.0, help="For so long; then no more.")
@click.option("--json", "as_json", is_flag=True, help="Every trace that was kept, as JSON.")
def main(volume_uid: str, run_dir: Path, every: int, seconds: float, as_json: bool) -> None:
    """Trace requests of a volume that this host serves as the primary, and say where their time went."""
    try:
        asker = Asker(run_dir / f"{volume_uid}.sock")
        asker.ask(every=every, for_s=seconds)
        time.sleep(seconds)
        traces = asker.ask(every=0)
        asker.close()
    except NoAnswer as error:
        click.echo(f"holdfast-trace: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(traces, indent=1))
        return
    click.echo(f"{traces['passed']:,} requests, of which {len(traces['recent']):,} traces are kept")
    for line in summary(traces):
        click.echo(line)
    click.echo("\nthe slowest of them:")
    for one in traces["slowest"][:SHOWN_SLOWEST]:
        click.echo(story(one))


if __name__ == "__main__":
    main()
