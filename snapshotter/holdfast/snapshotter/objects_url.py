"""An object store from one line of configuration.

    file:///var/lib/holdfast/objects
    s3://bucket/prefix?endpoint=http://127.0.0.1:8080&region=us-east-1

Credentials for S3 are never in the URL: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their like.
"""

import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from holdfast.base.errors import BadInput
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_s3 import S3Settings, S3Store

_CHECKSUM_USES = ("when_supported", "when_required")


def open_store(url: str) -> ObjectStore:
    """The store that `url` names. Raises BadInput BAD_OBJECTS_URL; a network is not touched yet."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and not parts.query:
        return DirectoryStore(Path(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(s3_settings(url))
    raise _bad(url, "use file:///directory or s3://bucket/prefix?endpoint=http://address:port")


def s3_settings(url: str) -> S3Settings:
    """The settings in an s3:// URL; its query takes every field of S3Settings but bucket and prefix."""
    parts = urlsplit(url)
    values: dict[str, Any] = {"bucket": parts.netloc, "prefix": parts.path.strip("/")}
    types = {field.name: field.type for field in dataclasses.fields(S3Settings)}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in types or key in ("bucket", "prefix"):
            raise _bad(url, f"{key!r} is not a setting: {', '.join(sorted(types))}")
        if key.endswith("_checksum") and text not in _CHECKSUM_USES:
            raise _bad(url, f"{key} is {' or '.join(_CHECKSUM_USES)}")
        try:
            values[key] = int(text) if types[key] is int else float(text) if types[key] is float else text
        except ValueError as error:
            raise _bad(url, f"{key}={text!r} is not a number") from error
    return S3Settings(**values)


def _bad(url: str, what: str) -> BadInput:
    return BadInput("BAD_OBJECTS_URL", f"{url!r} does not name an object store: {what}.")
