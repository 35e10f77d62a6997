"""Which service keeps the keys: `file:///directory` or `command:///program?timeout_s=10`."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from holdfast.base.errors import BadInput
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.keys_command import TIMEOUT_S, CommandKeys
from holdfast.snapshotter.keys_file import FileKeys


def open_keys(url: str) -> KeyService:
    """The service at `url`; none for an empty one. Raises BadInput BAD_KEYS."""
    if not url:
        return NO_KEYS
    parts = urlsplit(url)
    path = Path(parts.path)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    timeout = options.pop("timeout_s", "")
    if options or parts.netloc or not path.is_absolute() or (timeout and parts.scheme != "command"):
        raise _bad(url)
    if parts.scheme == "file" and path.is_dir():
        return FileKeys(path)
    if parts.scheme == "command" and path.is_file():
        try:
            return CommandKeys(path, float(timeout) if timeout else TIMEOUT_S)
        except ValueError:
            raise _bad(url) from None
    raise _bad(url)


def _bad(url: str) -> BadInput:
    return BadInput(
        "BAD_KEYS",
        f"{url!r} names no keys: use file:///directory, or command:///program?timeout_s=10, that exists.",
    )
