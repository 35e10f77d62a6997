"""`holdfast snapshot …`: its bytes without a volume. Joined to the group by snapshot.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.base.extents import runs
from holdfast.base.limits import SNAPSHOT_BLOCK_BYTES
from holdfast.cli.block_servers import BlockServers, at_option
from holdfast.cli.failures import say
from holdfast.cli.image_export import Export
from holdfast.cli.image_import import Import
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, output_option, table
from holdfast.cli.sizes import show_size
from holdfast.cli.snapshot_wait import wait_completed
from holdfast.cli.waiting import Bar, wait_options

PAGE_BLOCKS = 10_000
_FILE = click.Path(dir_okay=False, path_type=Path)
_owner = click.option("--owner", default="", help="Somebody else's, whose blocks you may read.")


@click.command()
@click.argument("snapshot_id")
@_owner
@click.option("--since", metavar="SNAPSHOT", help="Only blocks that differ from this older one of yours.")
@at_option
@output_option
def blocks(snapshot_id: str, owner: str, since: str | None, servers: tuple[str, ...]) -> None:
    """List the blocks of a snapshot that hold data, or that changed since another."""
    snapshot = pb.SnapshotName(owner=owner, snapshot_id=snapshot_id)
    whole = pb.ListPutBlocksResponse()
    with session() as at, _servers(at, servers) as where:
        found: list[int] = []
        token = ""
        while True:
            size_bytes, indexes, token = _page(where, snapshot, since, owner, token)
            whole.size_bytes = size_bytes
            found += indexes
            if not token:
                break
    for first, end in runs(found):
        whole.runs.add(first_block_index=first, end_block_index=end)
    rows = [
        [str(one.first_block_index), str(one.end_block_index - 1), _size(one, whole.size_bytes)]
        for one in whole.runs
    ]
    emit(whole, lambda: table(["FIRST", "LAST", "SIZE"], rows, "There are none."))


@click.command("export")
@click.argument("snapshot_id")
@click.argument("file", type=_FILE)
@_owner
@click.option("--since", metavar="SNAPSHOT", help="FILE is the image of this one: fetch what differs.")
@click.option("--overwrite", is_flag=True, help="FILE may be there, and is replaced when all has come.")
@at_option
def export(
    snapshot_id: str, file: Path, owner: str, since: str | None, overwrite: bool, servers: tuple[str, ...]
) -> None:
    """Make an image of a snapshot in FILE, sparse and checked. Snapshots stay as they are."""
    if since is None and file.exists() and not overwrite:
        raise click.UsageError(f"{file} is there: give another name, or --overwrite.")
    if since is not None and not file.exists():
        raise click.UsageError(f"{file} is not there: with --since it is the image of {since}.")
    bar = Bar(f"export {snapshot_id}")
    snapshot = pb.SnapshotName(owner=owner, snapshot_id=snapshot_id)
    older = pb.SnapshotName(owner=owner, snapshot_id=since) if since is not None else None
    try:
        with session() as at, _servers(at, servers) as where, _files():
            done = Export(where, snapshot, older, file, lambda a, b: bar.show(a, b, "")).run()
    finally:
        bar.close()
    click.echo(f"{file} is {show_size(done.size_bytes)}; {show_size(done.fetched_bytes)} were fetched.")


@click.command("import")
@click.argument("snapshot_id")
@click.argument("file", type=_FILE)
@click.option("--parent", metavar="SNAPSHOT", help="Yours: what is as in it is not stored again.")
@click.option("--parent-owner", default="", help="Of a parent that is somebody else's.")
@click.option(
    "--idle-timeout", "idle_timeout_s", type=click.IntRange(min=60), default=3600, show_default=True,
    metavar="SECONDS", help="How long an interrupted import is kept.",
)  # fmt: skip
@at_option
@wait_options(default=True)
@output_option
def import_(
    snapshot_id: str,
    file: Path,
    parent: str | None,
    parent_owner: str,
    idle_timeout_s: int,
    servers: tuple[str, ...],
    wait: bool,
    timeout_s: float,
) -> None:
    """Make a snapshot from the image in FILE, as if a volume had held it.

    Interrupted, the same command goes on where it was. FILE must not change meanwhile: that is found in
    the end, and fails the snapshot.
    """
    bar = Bar(f"import {snapshot_id}")
    name = pb.SnapshotName(owner=parent_owner, snapshot_id=parent) if parent is not None else None
    with session() as at:
        try:
            with _servers(at, servers) as where, _files():
                work = Import(where, snapshot_id, name, file, lambda a, b: bar.show(a, b, ""))
                work.start(idle_timeout_s)
                done = work.run()
        finally:
            bar.close()
        there = f", {done.there_blocks} were there" if done.there_blocks else ""
        say(f"{done.sent_blocks} blocks were sent{there}.")
        request = sb.GetSnapshotRequest(snapshot_id=snapshot_id)
        snapshot = at.call(at.client.snapshots.GetSnapshot, request).snapshot
        if wait:
            snapshot = wait_completed(at, snapshot_id, "", timeout_s)
    size = show_size(snapshot.size_bytes)
    emit(snapshot, lambda: click.echo(f"Snapshot {snapshot_id} holds {file}, {size}."))


@click.command()
@click.argument("snapshot_id")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@_owner
def nbd(snapshot_id: str, folder: Path, owner: str) -> None:
    """Print where a snapshot is an NBD export, for nbdcopy and others, one URI for each snapshotter.

    FOLDER is made to hold links to your certificate, under the names that such programs want.
    """
    with session() as at:
        request = sb.GetSnapshotRequest(snapshot_id=snapshot_id, owner=owner)
        uid = at.call(at.client.snapshots.GetSnapshot, request).snapshot.uid
        found = at.pages(at.client.snapshots.ListBlockServers, sb.ListBlockServersRequest())
        tls = at.tls
    with _files():
        folder.mkdir(parents=True, exist_ok=True)
        for link, path in (("ca-cert", tls.ca), ("client-cert", tls.certificate), ("client-key", tls.key)):
            (folder / f"{link}.pem").unlink(missing_ok=True)
            (folder / f"{link}.pem").symlink_to(path.resolve())
    for server in found.servers:
        click.echo(f"nbds://{server.nbd}/snapshot:{uid}?tls-certificates={folder.resolve()}")


def _page(
    where: BlockServers, snapshot: pb.SnapshotName, since: str | None, owner: str, token: str
) -> tuple[int, list[int], str]:
    if since is None:
        request = pb.ListSnapshotBlocksRequest(snapshot=snapshot, page_size=PAGE_BLOCKS, page_token=token)
        page = where.call(lambda stub: stub.ListSnapshotBlocks(request, timeout=300))
        return page.size_bytes, [one.block_index for one in page.blocks], page.next_page_token
    older = pb.SnapshotName(owner=owner, snapshot_id=since)
    asked = pb.ListChangedBlocksRequest(first=older, second=snapshot, page_size=PAGE_BLOCKS, page_token=token)
    changed = where.call(lambda stub: stub.ListChangedBlocks(asked, timeout=300))
    return changed.size_bytes, [one.block_index for one in changed.blocks], changed.next_page_token


def _size(run: pb.BlockRun, size_bytes: int) -> str:
    end = min(run.end_block_index * SNAPSHOT_BLOCK_BYTES, size_bytes)
    return show_size(end - run.first_block_index * SNAPSHOT_BLOCK_BYTES)


@contextmanager
def _servers(at: Session, given: tuple[str, ...]) -> Iterator[BlockServers]:
    made = BlockServers(at, given)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def _files() -> Iterator[None]:
    """What the system says of a file, as a sentence."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'A file'}: {error.strerror or error}.") from error
