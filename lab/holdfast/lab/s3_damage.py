"""Objects that are damaged at rest, as disks and people do it: through the server, past every checksum."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Damage:
    """Of one bucket. Names are whole keys."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def names(self, part: str = "") -> list[str]:
        """Of the objects whose names contain `part`, ascending."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", ()) if part in item["Key"]]

    def get(self, name: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=name, Body=data)

    def flip(self, name: str, at: int = -1) -> None:
        """Change one bit of the byte `at`; that in the middle if it is negative."""
        data = bytearray(self.get(name))
        data[at if at >= 0 else len(data) // 2] ^= 0x10
        self.put(name, bytes(data))

    def truncate(self, name: str, keep_bytes: int) -> None:
        self.put(name, self.get(name)[:keep_bytes])

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=name)
