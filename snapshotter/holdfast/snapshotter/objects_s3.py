"""Objects in an S3 bucket, through boto3, with everything bounded: tries, waits, connections.

boto3 is imported when the first store is opened, since it takes a third of a second. Both of its checksum
settings are exposed: its defaults of 2025 add trailers and demand response checksums that several servers
do not do; Holdfast checks every byte that it reads against checksums of its own.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from holdfast.base.errors import BadInput, HoldfastError, Unavailable
from holdfast.base.limits import KIB
from holdfast.snapshotter.objects import (
    ObjectInfo,
    check_name,
    full,
    missing,
    refused,
    truncated,
    unreachable,
)

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

ChecksumUse = Literal["when_supported", "when_required"]
READ_TOGETHER_BYTES = 192 * KIB
"""Pieces that are shorter are read several at a time."""
BODY_ATTEMPTS = 3
"""boto3 retries only up to the headers."""
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_REFUSED = frozenset(
    {
        *("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"),
        *("ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"),
    }
)
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "507", "InsufficientStorage"})


@dataclass(frozen=True)
class S3Settings:
    """Where and how. Credentials come from the environment, as for every AWS tool."""

    bucket: str
    prefix: str = ""
    """Put before every name, with a "/" between; for a bucket that holds other things too."""
    endpoint: str = ""
    """Empty is Amazon's own for `region`."""
    region: str = "us-east-1"
    request_checksum: ChecksumUse = "when_required"
    response_checksum: ChecksumUse = "when_required"
    attempts: int = 3
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    connections: int = 16
    profile: str = ""
    """A section of the AWS configuration files, for other credentials than the environment's."""


class S3Store:
    """An ObjectStore in a bucket that exists."""

    def __init__(self, settings: S3Settings) -> None:
        self._bucket = settings.bucket
        self._prefix = settings.prefix.strip("/") + "/" if settings.prefix.strip("/") else ""
        self._where = f"{settings.endpoint or 's3'}/{settings.bucket}"
        self._client = _client(settings)

    def put(self, name: str, data: bytes | bytearray) -> None:
        body = cast(bytes, data)  # boto3 takes a bytearray as well; its stubs do not say so.
        with self._errors(""):
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=body)

    def get(self, name: str) -> bytes:
        return self._body(name, "")

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self._body(name, f"bytes={offset}-{offset + length - 1}")
        if len(data) != length:
            raise truncated(name, offset, length, len(data))
        return data

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """A body that is cut off is asked for again from where it ended."""
        end, todo, attempt = offset + sum(lengths), deque(lengths), 1
        while todo:
            try:
                for piece in self._pieces(name, offset, end, todo):
                    offset += len(piece)
                    yield piece
            except Unavailable:
                if attempt == BODY_ATTEMPTS:
                    raise
                attempt += 1

    def _pieces(self, name: str, offset: int, end: int, todo: deque[int]) -> Iterator[bytes]:
        """The pieces that are `todo`, each taken away when it is here. Raises Unavailable in the middle."""
        byte_range = f"bytes={offset}-{end - 1}"
        with self._errors(name, byte_range):
            stream = self._open(name, byte_range)
        with contextlib.closing(stream):
            while todo:
                some = _first_few(todo)
                with self._errors(name, byte_range):
                    data = _read(stream, sum(some))
                at = 0
                for length in some:
                    if at + length > len(data):
                        raise truncated(name, offset, end - offset, len(data))
                    todo.popleft()
                    yield data if len(some) == 1 else data[at : at + length]
                    at += length
                offset += at

    def size(self, name: str) -> int:
        with self._errors(name):
            return self._client.head_object(Bucket=self._bucket, Key=self._key(name))["ContentLength"]

    def delete(self, name: str) -> None:
        with self._errors(""):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        paginator = self._client.get_paginator("list_objects_v2")
        with self._errors(""):
            for page in paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", ()):
                    name = item["Key"][len(self._prefix) :]
                    yield ObjectInfo(name, item["Size"], item["LastModified"].timestamp())

    def close(self) -> None:
        self._client.close()

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _body(self, name: str, byte_range: str) -> bytes:
        """A body that is cut off on its way is asked for again; whatever came before it boto3 has retried."""
        for attempt in range(1, BODY_ATTEMPTS + 1):
            with self._errors(name, byte_range):
                stream = self._open(name, byte_range)
            try:
                with self._errors(name, byte_range), contextlib.closing(stream):
                    return stream.read()
            except Unavailable:
                if attempt == BODY_ATTEMPTS:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _open(self, name: str, byte_range: str) -> "StreamingBody":
        key = self._key(name)
        if byte_range:
            return self._client.get_object(Bucket=self._bucket, Key=key, Range=byte_range)["Body"]
        return self._client.get_object(Bucket=self._bucket, Key=key)["Body"]

    @contextlib.contextmanager
    def _errors(self, name: str, byte_range: str = "") -> Iterator[None]:
        """Turn boto3's errors into ours. `name` is empty where absence is not an answer."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            raise self._translate(error.response["Error"], name, byte_range) from error
        except NoCredentialsError as error:
            raise refused(self._where, "no credentials in the environment") from error
        except (BotoCoreError, OSError) as error:
            raise unreachable(self._where, error) from error

    def _translate(self, answer: object, name: str, byte_range: str) -> HoldfastError:
        fields = answer if isinstance(answer, dict) else {}
        code = str(fields.get("Code", ""))
        why = f"{code} {fields.get('Message', '')}".strip()
        if name and code in _MISSING:
            return missing(name, self._where)
        if byte_range and code in ("416", "InvalidRange"):
            first, _, last = byte_range.removeprefix("bytes=").partition("-")
            return truncated(name, int(first), int(last) + 1 - int(first), 0)
        if code in _REFUSED or code in _MISSING:
            return refused(self._where, why)
        if code in _FULL:
            return full(self._where, why)
        return unreachable(self._where, why)


def _read(stream: "StreamingBody", length: int) -> bytes:
    """So many bytes; fewer only if the body is as short as it was said to be. One that is cut off is told
    when nothing more comes, and not before."""
    data = stream.read(length)
    while len(data) < length and (more := stream.read(length - len(data))):
        data += more
    return data


def _first_few(lengths: Iterable[int]) -> list[int]:
    """How many pieces to read at a time: each read costs as much as some ten KiB do. One at least."""
    some: list[int] = []
    for length in lengths:
        if some and sum(some) + length > READ_TOGETHER_BYTES:
            break
        some.append(length)
    return some


def _client(settings: S3Settings) -> "S3Client":
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=settings.connections,
        request_checksum_calculation=settings.request_checksum,
        response_checksum_validation=settings.response_checksum,
        s3={"addressing_style": "path"} if settings.endpoint else {},
    )
    # A session of our own: the default one is shared, and not safe to make clients from in threads.
    try:
        session = boto3.session.Session(profile_name=settings.profile or None)
    except ProfileNotFound as error:
        raise BadInput("BAD_OBJECTS_URL", f"{error}: name a profile of the AWS configuration.") from error
    return session.client(
        "s3", endpoint_url=settings.endpoint or None, region_name=settings.region, config=config
    )
