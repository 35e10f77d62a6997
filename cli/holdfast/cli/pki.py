"""`holdfast pki …`: the authority works on files alone, and needs no service."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from holdfast.metadata import pki

F = TypeVar("F", bound=Callable[..., Any])
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group("pki")
def command() -> None:
    """A development authority and its certificates.

    DIR holds ca.crt and ca.key, and NAME.crt and NAME.key each (and NAME.seal of hosts and services).
    Give a machine its own files and ca.crt, never ca.key. Nothing is overwritten; what is there stays.
    """


def _days(default: int) -> Callable[[F], F]:
    return click.option(
        "--days",
        type=int,
        default=default,
        show_default=True,
        help="Validity; 0 has expired already.",
    )


_addresses = click.option(
    "--address", "addresses", multiple=True, required=True, help="IP or host name it serves at; repeatable."
)


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@_days(pki.CA_VALID_DAYS)
def init(directory: Path, days: int) -> None:
    """Make an authority in DIR."""
    made = pki.init(directory, days)
    click.echo(f"{'Made' if made else 'There is'} an authority: {directory / 'ca.crt'}.")


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("name")
@_days(pki.VALID_DAYS)
def user(directory: Path, name: str, days: int) -> None:
    """Make a certificate for the user NAME."""
    _issue(directory, "user", name, (), days)


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("name")
@_days(pki.VALID_DAYS)
def operator(directory: Path, name: str, days: int) -> None:
    """Make a certificate for the operator NAME, who may see and manage hosts."""
    _issue(directory, "operator", name, (), days)


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("host_id")
@_addresses
@_days(pki.VALID_DAYS)
def host(directory: Path, host_id: str, addresses: tuple[str, ...], days: int) -> None:
    """Make the certificate and seal key of the storage host HOST_ID."""
    _issue(directory, "host", host_id, addresses, days)


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("name")
@_addresses
@_days(pki.VALID_DAYS)
def service(directory: Path, name: str, addresses: tuple[str, ...], days: int) -> None:
    """Make the certificate and seal key of a service, e.g. metadata or snapshotter."""
    _issue(directory, "service", name, addresses, days)


def _issue(directory: Path, role: str, name: str, addresses: tuple[str, ...], days: int) -> None:
    made = pki.issue(directory, role, name, addresses, days)
    certificate = pki.Identity(directory, name).tls.certificate
    click.echo(f"{'Made' if made else 'There is'} the {role} certificate {certificate}.")
