"""Output: tables and key-value lists for people, a message's canonical JSON for programs."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, TypeVar

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.cli.settings import Settings
from holdfast.metadata.records import encode

F = TypeVar("F", bound=Callable[..., Any])


def _keep_output(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta["holdfast.output"] = value


def output_option(function: F) -> F:
    """`--output`, also after the command's name."""
    option = click.option(
        "--output",
        type=click.Choice(["table", "json"]),
        expose_value=False,
        callback=_keep_output,
        help="For people, or programs.",
    )
    return option(function)


def wants_json() -> bool:
    ctx = click.get_current_context()
    settings = ctx.find_object(Settings)
    return bool(ctx.meta.get("holdfast.output", settings.output if settings else "table") == "json")


def emit(message: Message, people: Callable[[], None]) -> None:
    """Write `message` as one line of JSON if that was asked for, else what `people` writes."""
    if wants_json():
        click.echo(encode(message).decode())
    else:
        people()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Columns as wide as their content; the last is cut to the terminal."""
    if not rows:
        click.echo(empty)
        return
    widths = [max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads)]
    width = shutil.get_terminal_size((10_000, 24)).columns
    for row in (heads, *rows):
        line = "  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip()
        click.echo(line if len(line) <= width else line[: width - 1] + "…")


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """One fact a line; those without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")


def state_name(name: str) -> str:
    """AVAILABLE, of VOLUME_STATE_AVAILABLE."""
    return name.partition("_STATE_")[2]


def moment(stamp: Timestamp) -> str:
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Rounded, for people: 12 s, 3 min, 5 h."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 2 * 3600 else f"{round(seconds / 3600)} h"
