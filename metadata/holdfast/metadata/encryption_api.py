"""EncryptionService: see encryption.proto for each method's contract and errors."""

from holdfast.api.encryption.v1 import encryption_pb2 as pb
from holdfast.api.encryption.v1 import encryption_pb2_grpc
from holdfast.base.ids import check_name
from holdfast.metadata import encryption_decisions
from holdfast.metadata.caller import Caller
from holdfast.metadata.rpc import unary
from holdfast.metadata.service import Service


def check_key_name(name: str) -> str:
    """Return the name of a key, which may be left out; raise BadInput BAD_ID."""
    return check_name("key", name) if name else ""


class EncryptionServicer(encryption_pb2_grpc.EncryptionServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def SetVolumeKey(self, request: pb.SetVolumeKeyRequest, caller: Caller) -> pb.SetVolumeKeyResponse:
        owner, volume_id, name = caller.name, request.volume_id, check_key_name(request.encryption_key)
        rewrapped = self._service.rewrapped(
            lambda draft: encryption_decisions.wanted_for_volume(draft, owner, volume_id, name)
        )
        changed = self._service.run(
            lambda draft: encryption_decisions.set_volume_key(draft, owner, volume_id, name, rewrapped)
        )
        return pb.SetVolumeKeyResponse(changed=changed)

    @unary
    def RekeySnapshot(self, request: pb.RekeySnapshotRequest, caller: Caller) -> pb.RekeySnapshotResponse:
        owner, snapshot_id, name = caller.name, request.snapshot_id, check_key_name(request.encryption_key)
        rewrapped = self._service.rewrapped(
            lambda draft: encryption_decisions.wanted_for_rekey(draft, owner, snapshot_id, name)
        )
        assert rewrapped is not None, "an encrypted snapshot has a data key"
        now = self._service.run(
            lambda draft: encryption_decisions.rekey(draft, owner, snapshot_id, rewrapped)
        )
        return pb.RekeySnapshotResponse(encryption_key=now)
