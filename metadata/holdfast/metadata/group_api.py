"""SnapshotGroupService: see snapshot_group.proto for each method's contract and errors."""

from collections.abc import Iterator, Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2 as pb
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2_grpc
from holdfast.base.ids import new_uid
from holdfast.metadata import group_decisions, keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.encryption_api import check_key_name
from holdfast.metadata.pages import page_size, read_token
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.service import AtEnd, Service
from holdfast.metadata.views import group_view

_ENDED = (r.SNAPSHOT_GROUP_STATE_COMPLETED, r.SNAPSHOT_GROUP_STATE_FAILED)


class SnapshotGroupServicer(snapshot_group_pb2_grpc.SnapshotGroupServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def CreateSnapshotGroup(
        self, request: pb.CreateSnapshotGroupRequest, caller: Caller
    ) -> pb.CreateSnapshotGroupResponse:
        new = group_decisions.check(
            caller.name,
            request.group_id,
            [(one.volume_id, one.snapshot_id) for one in request.volumes],
            check_key_name(request.encryption_key),
            new_uid,
            self._service.clock(),
        )
        group, created = self._service.run(lambda draft: group_decisions.create(draft, new))
        return pb.CreateSnapshotGroupResponse(group=self._shown([group])[0], created=created)

    @unary
    def GetSnapshotGroup(
        self, request: pb.GetSnapshotGroupRequest, caller: Caller
    ) -> pb.GetSnapshotGroupResponse:
        return pb.GetSnapshotGroupResponse(group=self._shown([self._find(request.group_id, caller)])[0])

    @unary
    def ListSnapshotGroups(
        self, request: pb.ListSnapshotGroupsRequest, caller: Caller
    ) -> pb.ListSnapshotGroupsResponse:
        def resolve(named: list[tuple[str, r.NameRecord]]) -> list[r.SnapshotGroupRecord | None]:
            wanted = [keys.snapshot_group(name.uid) for _, name in named]
            return self._service.records(wanted, r.SnapshotGroupRecord)

        prefix = keys.names("snapshot_groups", caller.name)
        size, after = page_size(request.page_size), read_token(request.page_token)
        groups, token = self._service.page(prefix, size, after, resolve)
        return pb.ListSnapshotGroupsResponse(groups=self._shown(groups), next_page_token=token)

    @stream
    def WatchSnapshotGroup(
        self, request: pb.WatchSnapshotGroupRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchSnapshotGroupResponse]:
        group = self._find(request.group_id, caller)
        key = keys.snapshot_group(group.uid)

        def look() -> pb.SnapshotGroup | None:
            (now,) = self._service.records([key], r.SnapshotGroupRecord)
            return None if now is None else self._shown([now])[0]

        watched = [key, *(keys.snapshot(one.snapshot_uid) for one in group.members)]
        for view in self._service.changes(watched, look, at_end):
            yield pb.WatchSnapshotGroupResponse(group=view, deleted=view is None)
            if view is not None and view.state in _ENDED:
                return

    @unary
    def DeleteSnapshotGroup(
        self, request: pb.DeleteSnapshotGroupRequest, caller: Caller
    ) -> pb.DeleteSnapshotGroupResponse:
        owner, now_s = caller.name, self._service.clock()
        group = self._service.look(
            lambda draft: group_decisions.deletable(draft, owner, request.group_id, now_s)
        )
        # One at a time: all of them, with their grants, may be more than one transaction takes.
        for uid in [one.snapshot_uid for one in group.members]:
            self._service.run(
                lambda draft, uid=uid: group_decisions.delete_member(  # type: ignore[misc]
                    draft, uid, request.now, now_s
                )
            )
        changed = self._service.run(
            lambda draft: group_decisions.delete(draft, owner, request.group_id, group.uid)
        )
        return pb.DeleteSnapshotGroupResponse(changed=changed)

    def _find(self, group_id: str, caller: Caller) -> r.SnapshotGroupRecord:
        return self._service.look(lambda draft: group_decisions.group_of(draft, caller.name, group_id))

    def _shown(self, groups: Sequence[r.SnapshotGroupRecord]) -> list[pb.SnapshotGroup]:
        """With their snapshots as they are now, read in one go."""
        uids = [member.snapshot_uid for group in groups for member in group.members]
        found = self._service.records([keys.snapshot(uid) for uid in uids], r.SnapshotRecord)
        snapshots = dict(zip(uids, found, strict=True))
        return [group_view(group, snapshots) for group in groups]
