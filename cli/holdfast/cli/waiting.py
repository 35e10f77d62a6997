"""Waiting for a resource to become what it should be, and showing why it is not yet."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import grpc

from holdfast.base.errors import NotFound, Unavailable
from holdfast.cli.failures import WaitedInVain, say
from holdfast.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])
RECONNECT_S = 0.5
BAR_CHARS = 30


def wait_options(default: bool) -> Callable[[F], F]:
    """`--wait/--no-wait` and `--timeout`."""

    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait.",
    )
    wait = click.option("--wait/--no-wait", default=default, show_default=True, help="Until it is done.")

    def add(function: F) -> F:
        return wait(timeout(function))

    return add


def until(
    session: Session,
    watch: Callable[..., Iterator[Any]],
    request: Any,
    done: Callable[[Any], bool],
    show: Callable[[Any], None],
    timeout_s: float,
    what: str,
) -> Any:
    """Watch until `done(answer)`; that answer. Reconnects when the service goes away.

    `done` may raise to give up. Raises WaitedInVain after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            if left_s > 0:
                for answer in watch(request, timeout=left_s):
                    show(answer)
                    if done(answer):
                        return answer
        except grpc.RpcError as error:
            meant = session.explain(error)
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if not late and not isinstance(meant, Unavailable):
                raise meant from error
            if not late and time.monotonic() + RECONNECT_S < deadline_s:
                say(f"{meant.message} Trying again.")
        if time.monotonic() + RECONNECT_S >= deadline_s:
            raise WaitedInVain("TIMEOUT", f"{what} within {timeout_s:g} s; it goes on. Try `wait` or `show`.")
        threading.Event().wait(RECONNECT_S)


def until_deleted(
    session: Session, watch: Callable[..., Iterator[Any]], request: Any, timeout_s: float, what: str
) -> None:
    """Watch until it is gone; one that was gone before is."""
    try:
        until(session, watch, request, lambda answer: answer.deleted, lambda _: None, timeout_s, what)
    except NotFound:
        return


class Narrator:
    """Says each new thing once, on stderr: a state, a reason."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, sentence: str) -> None:
        if sentence and sentence != self._said:
            say(sentence)
        self._said = sentence


class Bar:
    """A progress bar on a terminal; a line at each tenth elsewhere. On stderr."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, done: int, total: int, text: str) -> None:
        """`text` follows the bar; of a total of 0 nothing is known yet."""
        share = min(1.0, done / total) if total else 0.0
        if self._terminal:
            filled = round(share * BAR_CHARS)
            bar = "█" * filled + "░" * (BAR_CHARS - filled)
            self._line(f"{self._label} {bar} {share:4.0%} {text}")
        else:
            tenths = f"{self._label}: {int(share * 10) * 10}% {text}" if total else f"{self._label}: {text}"
            if tenths.split("%")[0] != self._shown.split("%")[0]:
                click.echo(tenths, err=True)
            self._shown = tenths

    def close(self) -> None:
        if self._terminal and self._shown:
            click.echo("", err=True)
        self._shown = ""

    def _line(self, line: str) -> None:
        if line != self._shown:
            click.echo("\r\x1b[K" + line, nl=False, err=True)
        self._shown = line
