"""`holdfast-lab`: what people type to have hosts, and to break them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from holdfast.lab.errors import LabError
from holdfast.lab.guest import Guest
from holdfast.lab.install import install
from holdfast.lab.lab import DEFAULT_SUBNET, Lab, default_folder
from holdfast.lab.shell import run_shell

_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=default_folder,
    help="The lab's folder; $HOLDFAST_LAB_DIR, or /run/holdfast-lab.",
)


@click.group()
def cli() -> None:
    """Virtual storage and compute hosts on this machine, on a network that can be broken."""


@cli.command("install")
def install_command() -> None:
    """Install what the lab needs (Debian 12, root); quick when all is there."""
    if not install(click.echo):
        click.echo("everything is installed")


@cli.command()
@_folder
@click.option("--subnet", default=DEFAULT_SUBNET, show_default=True)
@click.option("--storage", default=2, show_default=True, help="How many storage hosts.")
@click.option("--compute", default=2, show_default=True, help="How many compute hosts.")
@click.option("--disk-gib", default=20, show_default=True, help="Storage hosts' sparse data disks.")
@click.option("--memory-mib", default=1024, show_default=True)
def up(folder: Path, subnet: str, storage: int, compute: int, disk_gib: int, memory_mib: int) -> None:
    """Bring a lab up: storage-a, storage-b, … and compute-a, compute-b, …"""
    for count in (storage, compute):
        if not 0 <= count <= 26:
            raise LabError(f"{count} hosts of a role is not between 0 and 26")
    lab = Lab(folder, subnet=subnet)
    with _told(f"network {subnet} in {folder}"):
        lab.up()
    names = [(f"storage-{_letter(i)}", disk_gib) for i in range(storage)]
    guests = [
        lab.define_guest(name, role="storage", memory_mib=memory_mib, disk_gib=disk) for name, disk in names
    ]
    guests += [
        lab.define_guest(f"compute-{_letter(i)}", role="compute", memory_mib=memory_mib)
        for i in range(compute)
    ]
    with _told(f"{len(guests)} guests"):
        lab.boot_guests(guests)
    _show(lab)


@cli.command()
@_folder
def down(folder: Path) -> None:
    """End everything that the lab started, and remove its folder and disks."""
    Lab.leftover(folder).down()


@cli.command()
@_folder
def status(folder: Path) -> None:
    """Guests, and what is wrong with the network."""
    _show(Lab.open(folder))


@cli.command(context_settings={"ignore_unknown_options": True})
@_folder
@click.argument("guest")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(folder: Path, guest: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in GUEST, or a shell."""
    sys.exit(run_shell(Lab.open(folder).guest(guest), list(command)) % 256)


def _guest_command(name: str, text: str, action: Callable[[Guest], None]) -> None:
    @_folder
    @click.argument("guests", nargs=-1, required=True, metavar="GUEST...")
    def command(folder: Path, guests: tuple[str, ...]) -> None:
        lab = Lab.open(folder)
        for one in [lab.guest(guest) for guest in guests]:
            action(one)

    cli.command(name, help=text)(command)


_guest_command("power-off", "Cut the power: what was not synced is lost.", Guest.power_off)
_guest_command("shutdown", "Switch off in good order.", Guest.shutdown)
_guest_command("boot", "Switch on again: same name, address and disk.", Guest.boot)
_guest_command("freeze", "Stop in its tracks, as a hypervisor's pause would.", Guest.freeze)
_guest_command("thaw", "Go on after freeze.", Guest.thaw)


@cli.command()
@_folder
@click.argument("a")
@click.argument("b")
@click.option("--one-way", is_flag=True, help="Only from A to B.")
def cut(folder: Path, a: str, b: str, one_way: bool) -> None:
    """Lose every frame between A and B (guests, or "host")."""
    Lab.open(folder).switch.cut(a, b, one_way=one_way)


@cli.command()
@_folder
@click.argument("a")
@click.argument("b")
@click.argument("milliseconds", type=float)
@click.option("--one-way", is_flag=True, help="Only from A to B.")
def delay(folder: Path, a: str, b: str, milliseconds: float, one_way: bool) -> None:
    """Hold every frame between A and B back by so many MILLISECONDS; 0 ends it."""
    Lab.open(folder).switch.delay(a, b, milliseconds, one_way=one_way)


@cli.command()
@_folder
@click.argument("a", required=False)
@click.argument("b", required=False)
def mend(folder: Path, a: str | None, b: str | None) -> None:
    """Undo cuts and delays between A and B; of every link, if none is named."""
    switch = Lab.open(folder).switch
    if a and b:
        switch.mend(a, b)
    elif a:
        raise LabError("name two ends of a link, or none to mend all")
    else:
        switch.mend_all()


def _show(lab: Lab) -> None:
    click.echo(f"lab in {lab.folder}; the host is {lab.address}")
    for guest in lab.guests():
        state = "on" if guest.running else "off"
        click.echo(f"  {guest.name:16} {guest.address:15} {guest.role:8} {state}")
    for fault in lab.switch.status()["faults"]:
        what = "cut" if fault["cut"] else f"delayed by {fault['delay_ms']:g} ms"
        click.echo(f"  {fault['from']} to {fault['to']}: {what}")
    click.echo(f"shell: holdfast-lab shell --dir {lab.folder} GUEST")


def _letter(index: int) -> str:
    return chr(ord("a") + index)


@contextmanager
def _told(what: str) -> Iterator[None]:
    click.echo(f"{what}: starting", nl=True)
    began_s = time.monotonic()
    yield
    click.echo(f"{what}: up after {time.monotonic() - began_s:.1f} s")


def main() -> None:
    """The command's entry point: the lab's own errors are one sentence, not a traceback."""
    try:
        cli()
    except LabError as error:
        click.echo(f"holdfast-lab: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
