"""KeyService: see key.proto for its contract and errors. It only asks the key service, and keeps nothing."""

from holdfast.api.key.v1 import key_pb2 as pb
from holdfast.api.key.v1 import key_pb2_grpc
from holdfast.base.errors import BadInput, Precondition
from holdfast.base.ids import check_name, is_uid
from holdfast.metadata.caller import Caller
from holdfast.metadata.rpc import unary_for_services
from holdfast.snapshotter import keys
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys import KeyService


class KeyServicer(key_pb2_grpc.KeyServiceServicer):
    def __init__(self, service: KeyService) -> None:
        self._service = service

    @unary_for_services
    def Rewrap(self, request: pb.RewrapRequest, caller: Caller) -> pb.RewrapResponse:
        uid, user, name = request.snapshot_uid, request.to_user, request.to_name
        if not is_uid(uid):
            raise BadInput("BAD_ID", f"{uid[:80]!r} is not the uid of a snapshot.")
        check_name("user", user)
        check_name("key", name)
        secret = keys.unwrap(self._service, uid, keys.from_record(request.data_key))
        try:
            wrapped = keys.wrap(self._service, uid, user, name, secret)
        except KeyUnavailable as error:
            if error.lost:
                raise Precondition(
                    "NO_SUCH_KEY", f"User {user} has no key {name!r}: they must make it, or name another."
                ) from error
            raise
        return pb.RewrapResponse(data_key=keys.to_record(wrapped))
