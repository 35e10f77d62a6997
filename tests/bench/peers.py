"""What the same bytes cost others: plain parallel boto3 transfers, and restic's repository."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.base.limits import MIB
from holdfast.lab.swift import SwiftServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OBJECT_BYTES = 32 * MIB
AT_ONCE = 4
"""As many as a snapshotter has on their way by default."""


def put_all(client: "S3Client", bucket: str, image: Path) -> None:
    """The file in objects of a pack's size, several at once."""
    with open(image, "rb") as file, ThreadPoolExecutor(AT_ONCE) as threads:

        def put(number: int) -> None:
            data = os.pread(file.fileno(), OBJECT_BYTES, number * OBJECT_BYTES)
            client.put_object(Bucket=bucket, Key=f"plain/{number}", Body=data)

        list(threads.map(put, range(_objects(image))))


def get_all(client: "S3Client", bucket: str, image: Path, into: Path) -> None:
    """What `put_all` put, into another file."""
    with open(into, "wb") as file, ThreadPoolExecutor(AT_ONCE) as threads:

        def get(number: int) -> None:
            data = client.get_object(Bucket=bucket, Key=f"plain/{number}")["Body"].read()
            os.pwrite(file.fileno(), data, number * OBJECT_BYTES)

        list(threads.map(get, range(_objects(image))))


def _objects(image: Path) -> int:
    return -(-image.stat().st_size // OBJECT_BYTES)


@dataclass(frozen=True)
class Restic:
    """A repository in a bucket of its own, with a cache of its own."""

    swift: SwiftServer
    bucket: str
    folder: Path

    def init(self) -> None:
        self._run("init")

    def backup(self, image: Path) -> None:
        self._run("backup", str(image))

    def restore(self, into: Path) -> None:
        self._run("restore", "latest", "--target", str(into))
        shutil.rmtree(into)

    def _run(self, *words: str) -> None:
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": self.swift.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.swift.credentials.secret_key,
            "AWS_DEFAULT_REGION": self.swift.credentials.region,
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": f"s3:{self.swift.endpoint_url}/{self.bucket}",
            "RESTIC_CACHE_DIR": str(self.folder / "restic-cache"),
        }
        subprocess.run(
            ["restic", "--quiet", "-o", "s3.bucket-lookup=path", *words], env=environment, check=True
        )
