"""Errors as people see them: one sentence on stderr, and an exit status that programs can tell apart."""

import click

from holdfast.base.errors import HoldfastError, NotFound, Unavailable

REFUSED, NOT_FOUND, UNREACHABLE, WAITED_IN_VAIN, DIFFERED = 1, 3, 4, 5, 6


class WaitedInVain(HoldfastError):
    """It did not come about within the time allowed; it may yet."""


class Differed(HoldfastError):
    """What was verified is not as it must be: replicas that differ, a snapshot that is damaged. It is not
    REFUSED: a job that verifies must tell the two apart."""


def exit_code(error: HoldfastError) -> int:
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, Unavailable):
        return UNREACHABLE
    if isinstance(error, Differed):
        return DIFFERED
    return WAITED_IN_VAIN if isinstance(error, WaitedInVain) else REFUSED


def say(sentence: str) -> None:
    """A line on stderr, so that stdout holds only what was asked for."""
    click.echo(f"holdfast: {sentence}", err=True)
