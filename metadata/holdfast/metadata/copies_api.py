"""SnapshotService's calls about copies in other object stores: see snapshot.proto."""

from collections.abc import Iterator

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.api.snapshot.v1 import snapshot_pb2_grpc
from holdfast.base.errors import NotFound
from holdfast.base.ids import check_name, is_uid, new_uid
from holdfast.metadata import copy_changes, keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.service import AtEnd, Service

_ENDED = (r.COPY_STATE_COMPLETED, r.COPY_STATE_FAILED)


class CopyCalls(snapshot_pb2_grpc.SnapshotServiceServicer):
    _service: Service

    @unary
    def CopySnapshot(self, request: pb.CopySnapshotRequest, caller: Caller) -> pb.CopySnapshotResponse:
        check_name("target", request.target)
        new = copy_changes.NewCopy(
            caller.name, request.snapshot_id, request.target, new_uid(), self._service.clock()
        )
        copy, created = self._service.run(lambda draft: copy_changes.create(draft, new))
        return pb.CopySnapshotResponse(copy=copy_view(copy), created=created)

    @unary
    def ListSnapshotCopies(
        self, request: pb.ListSnapshotCopiesRequest, caller: Caller
    ) -> pb.ListSnapshotCopiesResponse:
        size, after = page_size(request.page_size), read_token(request.page_token)
        prefix = keys.copies(caller.name)

        def fetch(after: str, limit: int) -> list[tuple[str, pb.SnapshotCopy | None]]:
            entries, _ = self._service.etcd.range(prefix, limit, prefix + after if after else "")
            return [
                (one.key.removeprefix(prefix), copy_view(decode(r.CopyRecord, one.value))) for one in entries
            ]

        copies, token = fill(size, after, fetch)
        return pb.ListSnapshotCopiesResponse(copies=copies, next_page_token=token)

    @stream
    def WatchSnapshotCopy(
        self, request: pb.WatchSnapshotCopyRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchSnapshotCopyResponse]:
        key = keys.copy(caller.name, _checked(request.uid))

        def look() -> pb.SnapshotCopy | None:
            (copy,) = self._service.records([key], r.CopyRecord)
            return copy_view(copy) if copy else None

        if look() is None:
            raise _not_found(request.uid)
        for view in self._service.changes([key], look, at_end):
            yield pb.WatchSnapshotCopyResponse(copy=view, deleted=view is None)
            if view is not None and view.state in _ENDED:
                return

    @unary
    def DeleteSnapshotCopy(
        self, request: pb.DeleteSnapshotCopyRequest, caller: Caller
    ) -> pb.DeleteSnapshotCopyResponse:
        uid = _checked(request.uid)
        changed = self._service.run(lambda draft: copy_changes.delete(draft, caller.name, uid))
        return pb.DeleteSnapshotCopyResponse(changed=changed)


def copy_view(copy: r.CopyRecord) -> pb.SnapshotCopy:
    view = pb.SnapshotCopy(
        uid=copy.uid,
        target=copy.target,
        snapshot_id=copy.snapshot_id,
        snapshot_uid=copy.snapshot_uid,
        volume_id=copy.volume_id,
        size_bytes=copy.size_bytes,
        state=copy.state,
        reason=copy.reason,
        done_bytes=copy.done_bytes,
        total_bytes=copy.total_bytes,
        stored_bytes=copy.stored_bytes,
        encryption_key=copy.encryption_key,
    )
    for name in ("freeze_time", "create_time", "complete_time"):
        if copy.HasField(name):
            getattr(view, name).CopyFrom(getattr(copy, name))
    return view


def _checked(uid: str) -> str:
    if not is_uid(uid):
        raise _not_found(uid)
    return uid


def _not_found(uid: str) -> NotFound:
    return NotFound("NOT_FOUND", f"There is no copy {uid[:80]!r} that you may see.")
