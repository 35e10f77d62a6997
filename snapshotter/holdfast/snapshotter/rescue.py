"""`holdfast-rescue`: snapshots out of a bucket, without a cluster.

It needs the object store, and for an encrypted snapshot the key service; no etcd, no service.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, NotFound
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.metadata.records import decode
from holdfast.snapshotter import keys
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.copying import DESCRIPTOR, prefix
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.index import Index, new_shard_cache, open_index
from holdfast.snapshotter.keys_url import open_keys
from holdfast.snapshotter.manifest import Manifest
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_prefixed import PrefixedStore
from holdfast.snapshotter.objects_url import open_store
from holdfast.snapshotter.reader import SnapshotReader

SHARDS_CACHE_BYTES = 64 * MIB
STEP_EXTENTS = 64


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Read snapshots, and copies of them, straight from a bucket: when a cluster is gone.

    URL is as for holdfast-snapshotter's --objects or --target; credentials come from the environment.
    """


@main.command("list")
@click.argument("url")
def list_(url: str) -> None:
    """The whole copies that there are under a target's URL."""
    with _telling():
        store = open_store(url)
        for copy in _copies(store):
            frozen = copy.freeze_time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
            encrypted = f"  key {copy.encryption_key}" if copy.encryption_key else ""
            click.echo(
                f"{copy.uid}  {copy.owner}/{copy.snapshot_id}  {copy.size_bytes} bytes  {frozen}{encrypted}"
            )


@main.command()
@click.argument("url")
@click.argument("uid", required=False)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--manifest", default="", help="Of any snapshot in a bucket; then without UID.")
@click.option("--keys", "key_url", default="", help="Of an encrypted one: file:///dir, or command:///program")
@click.option("--keep-going", is_flag=True, help="Write what can be read, and say what cannot.")
@click.option("--overwrite", is_flag=True, help="Also if the file is there.")
def image(
    url: str, uid: str | None, path: Path, manifest: str, key_url: str, keep_going: bool, overwrite: bool
) -> None:
    """Write a copy's image to a file; every byte is checked, and holes stay holes."""
    if bool(uid) == bool(manifest):
        raise click.UsageError("Give the UID of a copy (see `list`), or --manifest.")
    if path.exists() and not overwrite:
        raise click.UsageError(f"{path} is there already: --overwrite replaces it.")
    with _telling():
        store = open_store(url)
        digest = ""
        if uid:
            store = PrefixedStore(store, prefix(uid))
            copy = _descriptor(store, uid)
            manifest, digest = copy.manifest, copy.manifest_sha256
        index = _open(store, manifest, digest, key_url)
        lost = _write(index, store, path, keep_going)
    if lost:
        click.echo(f"{lost} extents of {EXTENT_BYTES} bytes could not be read: they are zeros.", err=True)
        sys.exit(6)


def _copies(store: ObjectStore) -> Iterator[r.CopyRecord]:
    for one in store.list("copies/"):
        if one.name.endswith(f"/{DESCRIPTOR}") and one.name.count("/") == 2:
            yield decode(r.CopyRecord, store.get(one.name))


def _descriptor(store: ObjectStore, uid: str) -> r.CopyRecord:
    try:
        return decode(r.CopyRecord, store.get(DESCRIPTOR))
    except NotFound as error:
        raise NotFound("NO_SUCH_COPY", f"There is no whole copy {uid!r} there: see `list`.") from error


def _open(store: ObjectStore, manifest: str, digest: str, key_url: str) -> Index:
    service = open_keys(key_url)

    def unlock(made: Manifest) -> DataKey:
        assert made.keys is not None
        return keys.open_data_key(service, made.snapshot_uid, made.keys.wrapped)

    return open_index(store, manifest, digest, new_shard_cache(SHARDS_CACHE_BYTES), unlock)


def _write(index: Index, store: ObjectStore, path: Path, keep_going: bool) -> int:
    """How many extents could not be read."""
    fetcher, lost = Fetcher(store), 0
    reader = SnapshotReader(index, fetcher)
    size_bytes = index.manifest.size_bytes
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.truncate(size_bytes)
            at = 0
            while at < size_bytes:
                for length, flags in reader.allocation(at, size_bytes - at):
                    if not flags:
                        lost += _write_run(reader, file.fileno(), at, length, keep_going)
                    at += length
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
        fetcher.close()
    return lost


def _write_run(reader: SnapshotReader, file: int, first: int, length: int, keep_going: bool) -> int:
    lost, step = 0, STEP_EXTENTS * EXTENT_BYTES
    for at in range(first, first + length, step):
        count = min(step, first + length - at)
        try:
            os.pwrite(file, reader.read(at, count), at)
            continue
        except DataLoss:
            if not keep_going:
                raise
        for one in range(at, at + count, EXTENT_BYTES):
            try:
                piece = reader.read(one, min(EXTENT_BYTES, at + count - one))
                os.pwrite(file, piece, one)
            except DataLoss as error:
                click.echo(f"bytes {one}-{one + EXTENT_BYTES - 1}: {error.message}", err=True)
                lost += 1
    return lost


class _telling:
    """Errors as one sentence, and exit status 1."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (HoldfastError, OSError)):
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
