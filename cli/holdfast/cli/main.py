"""`holdfast`: what people type. Each group of commands is imported only when it is used."""

import importlib
import sys
from pathlib import Path

import click

from holdfast.base.errors import HoldfastError
from holdfast.cli.failures import exit_code, say
from holdfast.cli.settings import Settings

_GROUPS = {
    "volume": ("holdfast.cli.volume", "Disks, each held on two storage hosts."),
    "snapshot": ("holdfast.cli.snapshot", "Volumes' content at one instant, in the object store."),
    "grant": ("holdfast.cli.grant", "Who else may make volumes from a snapshot, or read its blocks."),
    "attachment": ("holdfast.cli.attachment", "Which initiator may log in to a volume, and how."),
    "schedule": ("holdfast.cli.schedule", "Snapshots at set times, and which of them are kept."),
    "settings": ("holdfast.cli.own_settings", "How long what you delete can be restored."),
    "collection": ("holdfast.cli.collection", "Objects that nothing needs any more (operators only)."),
    "host": ("holdfast.cli.host", "Storage hosts (operators only)."),
    "pki": ("holdfast.cli.pki", "A development authority and its certificates."),
    "login": ("holdfast.cli.login", "Keep the connection's settings in a file."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _GROUPS:
            return None
        command = importlib.import_module(_GROUPS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _GROUPS.items()])


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_PATH = click.Path(dir_okay=False, path_type=Path)


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--server", envvar="HOLDFAST_SERVER", help="The metadata service, host:port.")
@click.option("--ca", envvar="HOLDFAST_CA", type=_PATH, help="The authority's certificate.")
@click.option("--cert", envvar="HOLDFAST_CERT", type=_PATH, help="Your certificate.")
@click.option("--key", envvar="HOLDFAST_KEY", type=_PATH, help="Its key.")
@click.option("--config", envvar="HOLDFAST_CONFIG", type=_PATH, help="Settings, made by `holdfast login`.")
@click.option(
    "--output", type=click.Choice(["table", "json"]), default="table", help="For people, or programs."
)
@click.pass_context
def cli(
    ctx: click.Context,
    server: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    config: Path | None,
    output: str,
) -> None:
    """Holdfast: mirrored network disks, with snapshots that users grant to each other.

    The connection comes from these options, or HOLDFAST_SERVER, HOLDFAST_CA, HOLDFAST_CERT and
    HOLDFAST_KEY, or the settings file, in this order.

    \b
    Exit status: 0 done; 1 refused; 2 wrong usage; 3 not found;
    4 the service cannot be reached; 5 waited in vain;
    6 the replicas differed (volume verify --wait); 130 interrupted.
    """
    ctx.obj = Settings(server, ca, cert, key, config, output)


def main() -> None:
    """Run and exit; every error is one sentence on stderr."""
    try:
        cli.main(prog_name="holdfast", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; what was asked for goes on. `show` tells how far it is.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HoldfastError as error:
        say(f"{error.message} [{error.reason}]")
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain at exit.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
