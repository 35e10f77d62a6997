"""SnapshotService: see snapshot.proto for each method's contract and errors."""

import functools
from collections.abc import Iterator

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.base.errors import BadInput
from holdfast.base.ids import check_name, new_uid
from holdfast.metadata import keeping_decisions, keys, snapshot_decisions, verify_changes
from holdfast.metadata.caller import Caller
from holdfast.metadata.copies_api import CopyCalls
from holdfast.metadata.encryption_api import check_key_name
from holdfast.metadata.granted_snapshots import owned_views, page_of_granted, shown_to
from holdfast.metadata.lookups import EVERYONE, OUT_OF_SIGHT, not_found, snapshot_of, visible_snapshot
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.service import AtEnd, Service
from holdfast.metadata.views import block_server_view, snapshot_view

_ENDED = (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_FAILED)


class SnapshotServicer(CopyCalls):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def CreateSnapshot(self, request: pb.CreateSnapshotRequest, caller: Caller) -> pb.CreateSnapshotResponse:
        check_name("snapshot", request.snapshot_id)
        new = snapshot_decisions.NewSnapshot(
            caller.name,
            request.snapshot_id,
            request.volume_id,
            new_uid(),
            self._service.clock(),
            check_key_name(request.encryption_key),
        )
        snapshot, created = self._service.run(lambda draft: snapshot_decisions.create(draft, new))
        return pb.CreateSnapshotResponse(snapshot=snapshot_view(snapshot), created=created)

    @unary
    def GetSnapshot(self, request: pb.GetSnapshotRequest, caller: Caller) -> pb.GetSnapshotResponse:
        snapshot = self._find(request.snapshot_id, request.owner, caller)
        return pb.GetSnapshotResponse(snapshot=shown_to(self._service, caller.name, snapshot))

    @unary
    def ListSnapshots(self, request: pb.ListSnapshotsRequest, caller: Caller) -> pb.ListSnapshotsResponse:
        if request.granted:
            views, token = page_of_granted(self._service, caller.name, request)
        else:
            size, after = page_size(request.page_size), read_token(request.page_token)
            prefix = keys.names("recycled" if request.deleted else "snapshots", caller.name)
            resolve = functools.partial(self._resolve, request.volume_id)
            snapshots, token = self._service.page(prefix, size, after, resolve)
            views = owned_views(self._service, snapshots)
        return pb.ListSnapshotsResponse(snapshots=views, next_page_token=token)

    @stream
    def WatchSnapshot(
        self, request: pb.WatchSnapshotRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchSnapshotResponse]:
        find = self._find_own if request.until_verified else self._find
        uid = find(request.snapshot_id, request.owner, caller).uid
        watched = [keys.snapshot(uid), keys.grant(uid, caller.name), keys.grant(uid, EVERYONE)]

        def look() -> pb.Snapshot | None:
            (snapshot,) = self._service.records([keys.snapshot(uid)], r.SnapshotRecord)
            if snapshot is None or snapshot.state in OUT_OF_SIGHT:
                return None
            if request.until_verified:
                return snapshot_view(snapshot)
            # A grant may have been revoked meanwhile.
            self._find(request.snapshot_id, request.owner, caller)
            return shown_to(self._service, caller.name, snapshot)

        for view in self._service.changes(watched, look, at_end):
            yield pb.WatchSnapshotResponse(snapshot=view, deleted=view is None)
            if view is not None and _has_ended(view, request.until_verified):
                return

    @unary
    def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, caller: Caller) -> pb.DeleteSnapshotResponse:
        owner = self._owner(request.snapshot_id, request.owner, caller)
        now_s = self._service.clock()
        snapshot = self._service.run(
            lambda draft: keeping_decisions.delete(draft, owner, request.snapshot_id, request.now, now_s)
        )
        response = pb.DeleteSnapshotResponse(changed=True)
        if snapshot.HasField("recycle_until_time"):
            response.recycle_until_time.CopyFrom(snapshot.recycle_until_time)
        return response

    @unary
    def LockSnapshot(self, request: pb.LockSnapshotRequest, caller: Caller) -> pb.LockSnapshotResponse:
        now_s = self._service.clock()
        until_s = keeping_decisions.check_until(request.until_time, now_s)
        snapshot, changed = self._service.run(
            lambda draft: keeping_decisions.lock(draft, caller.name, request.snapshot_id, until_s)
        )
        return pb.LockSnapshotResponse(snapshot=snapshot_view(snapshot), changed=changed)

    @unary
    def RestoreSnapshot(
        self, request: pb.RestoreSnapshotRequest, caller: Caller
    ) -> pb.RestoreSnapshotResponse:
        if request.snapshot_id:
            check_name("snapshot", request.snapshot_id)
        now_s = self._service.clock()
        snapshot, changed = self._service.run(
            lambda draft: keeping_decisions.restore(
                draft, caller.name, request.uid, request.snapshot_id, now_s
            )
        )
        return pb.RestoreSnapshotResponse(snapshot=snapshot_view(snapshot), changed=changed)

    @unary
    def PurgeSnapshot(self, request: pb.PurgeSnapshotRequest, caller: Caller) -> pb.PurgeSnapshotResponse:
        changed = self._service.run(lambda draft: keeping_decisions.purge(draft, caller.name, request.uid))
        return pb.PurgeSnapshotResponse(changed=changed)

    @unary
    def VerifySnapshot(self, request: pb.VerifySnapshotRequest, caller: Caller) -> pb.VerifySnapshotResponse:
        if request.sample_percent > 100:
            raise BadInput("BAD_SAMPLE", f"{request.sample_percent} % is more than all: ask for 100 at most.")
        owner = self._find_own(request.snapshot_id, request.owner, caller).owner
        now_s, sample = self._service.clock(), request.sample_percent or 100
        snapshot, changed = self._service.run(
            lambda draft: verify_changes.ask(draft, owner, request.snapshot_id, sample, now_s)
        )
        return pb.VerifySnapshotResponse(snapshot=snapshot_view(snapshot), changed=changed)

    @unary
    def ListBlockServers(
        self, request: pb.ListBlockServersRequest, caller: Caller
    ) -> pb.ListBlockServersResponse:
        size, after = page_size(request.page_size), read_token(request.page_token)
        prefix = keys.SNAPSHOTTER_LEASES

        def fetch(after: str, limit: int) -> list[tuple[str, pb.BlockServer | None]]:
            entries, _ = self._service.etcd.range(prefix, limit, prefix + after if after else "")
            return [
                (one.key.removeprefix(prefix), block_server_view(decode(r.SnapshotterLease, one.value)))
                for one in entries
            ]

        servers, token = fill(size, after, fetch)
        return pb.ListBlockServersResponse(servers=servers, next_page_token=token)

    def _find(self, snapshot_id: str, owner: str, caller: Caller) -> r.SnapshotRecord:
        return self._service.look(lambda draft: visible_snapshot(draft, caller.name, owner, snapshot_id))

    def _find_own(self, snapshot_id: str, owner: str, caller: Caller) -> r.SnapshotRecord:
        """The caller's; another's for operators."""
        owner = self._owner(snapshot_id, owner, caller)
        return self._service.look(lambda draft: snapshot_of(draft, owner, snapshot_id))

    @staticmethod
    def _owner(snapshot_id: str, owner: str, caller: Caller) -> str:
        """Whose the call is about: the caller's, or another's for operators. Raises NotFound."""
        if owner not in ("", caller.name) and not caller.operator:
            raise not_found("snapshot", snapshot_id)
        return owner or caller.name

    def _resolve(
        self, volume_id: str, named: list[tuple[str, r.NameRecord]]
    ) -> list[r.SnapshotRecord | None]:
        found = self._service.records([keys.snapshot(name.uid) for _, name in named], r.SnapshotRecord)
        return [one if one and volume_id in ("", one.volume_id) else None for one in found]


def _has_ended(view: pb.Snapshot, until_verified: int) -> bool:
    if not until_verified:
        return view.state in _ENDED
    return view.verify.request >= until_verified and view.verify.state not in verify_changes.UNDER_WAY
