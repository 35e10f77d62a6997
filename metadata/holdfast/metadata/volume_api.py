"""VolumeService: see volume.proto for each method's contract and errors."""

from collections.abc import Iterator

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as pb
from holdfast.api.volume.v1 import volume_pb2_grpc
from holdfast.base.errors import BadInput
from holdfast.base.ids import check_name, new_uid
from holdfast.base.limits import BLOCK_BYTES, VOLUME_MAX_BYTES
from holdfast.metadata import keys, volume_decisions, volume_requests
from holdfast.metadata.caller import Caller
from holdfast.metadata.encryption_api import check_key_name
from holdfast.metadata.lookups import not_found, volume_of
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.records import decode
from holdfast.metadata.replica_record import record_of
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.service import AtEnd, Service
from holdfast.metadata.views import volume_view


def check_size(size_bytes: int, has_source: bool) -> None:
    """Raise BadInput unless a volume could have this size; 0 is allowed with a source."""
    if size_bytes == 0 and has_source:
        return
    if size_bytes <= 0 or size_bytes % BLOCK_BYTES:
        raise BadInput(
            "BAD_SIZE",
            f"{size_bytes} bytes is not a positive multiple of {BLOCK_BYTES}: correct it.",
        )
    if size_bytes > VOLUME_MAX_BYTES:
        raise BadInput(
            "SIZE_TOO_LARGE", f"{size_bytes} bytes is above {VOLUME_MAX_BYTES}, the most: ask for less."
        )


class VolumeServicer(volume_pb2_grpc.VolumeServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def CreateVolume(self, request: pb.CreateVolumeRequest, caller: Caller) -> pb.CreateVolumeResponse:
        check_name("volume", request.volume_id)
        source = request.source_snapshot
        check_size(request.size_bytes, bool(source.snapshot_id))
        new = volume_decisions.NewVolume(
            owner=caller.name,
            volume_id=request.volume_id,
            size_bytes=request.size_bytes,
            source_owner=source.owner or caller.name,
            source_id=source.snapshot_id,
            multi_attach=request.multi_attach,
            uid=new_uid(),
            now_s=self._service.clock(),
            overcommit=self._service.overcommit,
            needs_mirror=request.needs_mirror,
            encryption_key=check_key_name(request.encryption_key),
        )
        with self._service.placing():
            volume, created = self._service.run(lambda draft: volume_decisions.create(draft, new))
        return pb.CreateVolumeResponse(volume=self._views([volume], caller)[0], created=created)

    @unary
    def GetVolume(self, request: pb.GetVolumeRequest, caller: Caller) -> pb.GetVolumeResponse:
        volume = self._find(request.volume_id, request.owner, caller)
        return pb.GetVolumeResponse(volume=self._views([volume], caller)[0])

    @unary
    def ListVolumes(self, request: pb.ListVolumesRequest, caller: Caller) -> pb.ListVolumesResponse:
        size, after = page_size(request.page_size), read_token(request.page_token)
        if request.all_owners:
            caller.need_operator()
            volumes, token = fill(size, after, self._fetch_all)
        else:
            prefix = keys.names("volumes", caller.name)
            volumes, token = self._service.page(prefix, size, after, self._resolve)
        return pb.ListVolumesResponse(volumes=self._views(volumes, caller), next_page_token=token)

    @stream
    def WatchVolume(
        self, request: pb.WatchVolumeRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchVolumeResponse]:
        uid = self._find(request.volume_id, request.owner, caller).uid

        def look() -> pb.Volume | None:
            (volume,) = self._service.records([keys.volume(uid)], r.VolumeRecord)
            return self._views([volume], caller)[0] if volume else None

        for view in self._service.changes([keys.volume(uid), keys.replica(uid)], look, at_end):
            yield pb.WatchVolumeResponse(volume=view, deleted=view is None)

    @unary
    def DeleteVolume(self, request: pb.DeleteVolumeRequest, caller: Caller) -> pb.DeleteVolumeResponse:
        changed = self._service.run(
            lambda draft: volume_decisions.delete(draft, caller.name, request.volume_id)
        )
        return pb.DeleteVolumeResponse(changed=changed)

    @unary
    def SwitchPrimary(self, request: pb.SwitchPrimaryRequest, caller: Caller) -> pb.SwitchPrimaryResponse:
        named = self._named(request.volume_id, request.owner, caller)
        if request.to_host_id:
            caller.need_operator()
        epoch = request.epoch
        if not epoch:
            # Decided again after a lost answer, it must not switch back.
            uid = self._find(request.volume_id, request.owner, caller).uid
            epoch = self._service.look(lambda draft: record_of(draft, uid)).epoch
        changed, epoch = self._service.run(
            lambda draft: volume_requests.switch(draft, named, request.to_host_id, epoch)
        )
        return pb.SwitchPrimaryResponse(changed=changed, epoch=epoch)

    @unary
    def VerifyVolume(self, request: pb.VerifyVolumeRequest, caller: Caller) -> pb.VerifyVolumeResponse:
        named = self._named(request.volume_id, request.owner, caller)
        if request.rate_bytes_s < 0:
            raise BadInput("BAD_RATE", f"{request.rate_bytes_s} bytes a second is negative: leave it out.")
        rate, now_s = request.rate_bytes_s, self._service.clock()
        number, changed = self._service.run(lambda draft: volume_requests.verify(draft, named, rate, now_s))
        return pb.VerifyVolumeResponse(request=number, changed=changed)

    @unary
    def LimitVolume(self, request: pb.LimitVolumeRequest, caller: Caller) -> pb.LimitVolumeResponse:
        caller.need_operator()
        named = self._named(request.volume_id, request.owner, caller)
        limits = volume_requests.check_limits(request.iops, request.bytes_s)
        volume, changed = self._service.run(lambda draft: volume_requests.limit(draft, named, limits))
        return pb.LimitVolumeResponse(volume=self._views([volume], caller)[0], changed=changed)

    @unary
    def ForceStartVolume(
        self, request: pb.ForceStartVolumeRequest, caller: Caller
    ) -> pb.ForceStartVolumeResponse:
        caller.need_operator()
        named = self._named(request.volume_id, request.owner, caller)
        force = volume_requests.Force(
            host_id=request.host_id,
            by=caller.name,
            loss=volume_requests.check_loss(request.loss),
            accept_half_synced=request.accept_half_synced,
            now_s=self._service.clock(),
        )
        epoch = self._service.run(lambda draft: volume_requests.force_start(draft, named, force))
        return pb.ForceStartVolumeResponse(epoch=epoch)

    def _named(self, volume_id: str, owner: str, caller: Caller) -> volume_requests.Named:
        if owner not in ("", caller.name) and not caller.operator:
            raise not_found("volume", volume_id)
        return volume_requests.Named(owner or caller.name, volume_id)

    def _find(self, volume_id: str, owner: str, caller: Caller) -> r.VolumeRecord:
        named = self._named(volume_id, owner, caller)
        return self._service.look(lambda draft: volume_of(draft, named.owner, named.volume_id))

    def _resolve(self, named: list[tuple[str, r.NameRecord]]) -> list[r.VolumeRecord | None]:
        return self._service.records([keys.volume(name.uid) for _, name in named], r.VolumeRecord)

    def _fetch_all(self, after: str, limit: int) -> list[tuple[str, r.VolumeRecord | None]]:
        entries, _ = self._service.etcd.range(keys.VOLUMES, limit, keys.VOLUMES + after if after else "")
        return [(one.key.removeprefix(keys.VOLUMES), decode(r.VolumeRecord, one.value)) for one in entries]

    def _views(self, volumes: list[r.VolumeRecord], caller: Caller) -> list[pb.Volume]:
        replicas = self._service.records([keys.replica(one.uid) for one in volumes], r.ReplicaRecord)
        origin_uids = sorted({one.origin_snapshot_uid for one in volumes} - {""})
        found = self._service.records([keys.snapshot(uid) for uid in origin_uids], r.SnapshotRecord)
        origins = dict(zip(origin_uids, found, strict=True))
        return [
            volume_view(volume, replica, origins.get(volume.origin_snapshot_uid), caller.operator)
            for volume, replica in zip(volumes, replicas, strict=True)
        ]
