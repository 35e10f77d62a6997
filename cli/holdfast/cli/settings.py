"""Where the service is and who we are: from options, the environment, or the settings file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from holdfast.base.tls import TlsFiles

DEFAULT_FILE = "~/.config/holdfast/config.toml"
_NAMES = ("server", "ca", "cert", "key")


@dataclass(frozen=True)
class Settings:
    """As given on the command line or in the environment; `connection` adds the file."""

    server: str | None
    ca: Path | None
    cert: Path | None
    key: Path | None
    config: Path | None
    output: str

    def file(self) -> Path:
        return (self.config or Path(DEFAULT_FILE)).expanduser()

    def connection(self) -> "tuple[str, TlsFiles]":
        """The server's address and our certificate's files. Raises click.UsageError if one is not set."""
        from holdfast.base.tls import TlsFiles  # here: it is slow to import, and --help does without

        kept = self._read_file()
        given = {"server": self.server, "ca": self.ca, "cert": self.cert, "key": self.key}
        missing = [name for name in _NAMES if not given[name] and name not in kept]
        if missing:
            options = ", ".join(f"--{name} (or HOLDFAST_{name.upper()})" for name in missing)
            raise click.UsageError(f"Give {options}, or run `holdfast login` once.")
        ca, cert, key = (Path(given[name] or kept[name]).expanduser() for name in ("ca", "cert", "key"))
        return str(given["server"] or kept["server"]), TlsFiles(ca, cert, key)

    def _read_file(self) -> dict[str, str]:
        """What the file sets; paths in it are relative to it. Nothing, if the default file is not there."""
        import tomllib  # here, for the same reason

        path = self.file()
        try:
            content = tomllib.loads(path.read_text())
        except FileNotFoundError:
            if self.config is not None:
                raise click.UsageError(f"There is no settings file {path}.") from None
            return {}
        except (OSError, ValueError) as error:
            raise click.UsageError(f"The settings file {path} cannot be read: {error}.") from error
        kept = {name: str(content[name]) for name in _NAMES if name in content}
        return {
            name: value if name == "server" else str(path.parent / Path(value).expanduser())
            for name, value in kept.items()
        }
