"""SettingsService: see settings.proto for each method's contract and errors."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.settings.v1 import settings_pb2 as pb
from holdfast.api.settings.v1 import settings_pb2_grpc
from holdfast.base.errors import BadInput
from holdfast.metadata import settings_decisions
from holdfast.metadata.caller import Caller
from holdfast.metadata.lookups import is_name
from holdfast.metadata.rpc import unary
from holdfast.metadata.service import Service
from holdfast.metadata.settings_decisions import SettingsChange, recycle_s_of, settings_of
from holdfast.metadata.updates import check_mask, etag_of


class SettingsServicer(settings_pb2_grpc.SettingsServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def GetSettings(self, request: pb.GetSettingsRequest, caller: Caller) -> pb.GetSettingsResponse:
        owner = _whose(request.owner, request.cluster, caller)
        record = self._service.look(lambda draft: settings_of(draft, owner))
        return pb.GetSettingsResponse(settings=self._view(owner, record))

    @unary
    def UpdateSettings(self, request: pb.UpdateSettingsRequest, caller: Caller) -> pb.UpdateSettingsResponse:
        owner = _whose(request.owner, request.cluster, caller)
        paths = check_mask(request.update_mask, ("recycle_s",))
        recycle_s = None
        if request.settings.HasField("recycle_s"):
            recycle_s = settings_decisions.check_recycle_s(request.settings.recycle_s)
        change = SettingsChange(owner, paths, recycle_s, request.etag)
        record, changed = self._service.run(lambda draft: settings_decisions.update(draft, change))
        return pb.UpdateSettingsResponse(settings=self._view(owner, record), changed=changed)

    def _view(self, owner: str, record: r.SettingsRecord) -> pb.Settings:
        view = pb.Settings(
            effective_recycle_s=self._service.look(lambda draft: recycle_s_of(draft, owner)),
            etag=etag_of(record.revision),
        )
        if record.HasField("recycle_s"):
            view.recycle_s = record.recycle_s
        return view


def _whose(owner: str, cluster: bool, caller: Caller) -> str:
    """The owner whose settings are meant; "" for the cluster's."""
    if cluster or owner not in ("", caller.name):
        caller.need_operator()
    if cluster:
        return ""
    if owner and not is_name(owner):
        raise BadInput("BAD_USER", f"{owner[:80]!r} is not a user's name.")
    return owner or caller.name
