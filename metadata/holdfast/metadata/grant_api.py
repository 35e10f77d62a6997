"""GrantService: see grant.proto for each method's contract and errors."""

from holdfast.api.grant.v1 import grant_pb2 as pb
from holdfast.api.grant.v1 import grant_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput
from holdfast.metadata import encryption_decisions, keys, snapshot_decisions
from holdfast.metadata.caller import Caller
from holdfast.metadata.encryption_api import check_key_name
from holdfast.metadata.lookups import EVERYONE, is_name, snapshot_of
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.permissions import check_permissions
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import unary
from holdfast.metadata.service import Service
from holdfast.metadata.views import grant_view


def check_user(user: str) -> str:
    if user != EVERYONE and not is_name(user):
        raise BadInput("BAD_USER", f"{user[:80]!r} is neither a user's name nor '*', which is everyone.")
    return user


class GrantServicer(grant_pb2_grpc.GrantServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def CreateGrant(self, request: pb.CreateGrantRequest, caller: Caller) -> pb.CreateGrantResponse:
        new = snapshot_decisions.NewGrant(
            caller.name,
            request.snapshot_id,
            check_user(request.user),
            tuple(check_permissions(request.permissions)),
            self._service.clock(),
        )
        key_name = check_key_name(request.encryption_key)
        rewrapped = self._service.rewrapped(
            lambda draft: encryption_decisions.wanted_for_grant(
                draft, new.owner, new.snapshot_id, new.user, key_name
            )
        )
        grant, created = self._service.run(
            lambda draft: snapshot_decisions.create_grant(draft, new, rewrapped)
        )
        return pb.CreateGrantResponse(grant=grant_view(grant), created=created)

    @unary
    def ListGrants(self, request: pb.ListGrantsRequest, caller: Caller) -> pb.ListGrantsResponse:
        size, after = page_size(request.page_size), read_token(request.page_token)
        snapshot = self._service.look(lambda draft: snapshot_of(draft, caller.name, request.snapshot_id))
        prefix = keys.grants(snapshot.uid)

        def fetch(after: str, limit: int) -> list[tuple[str, r.GrantRecord | None]]:
            entries, _ = self._service.etcd.range(prefix, limit, prefix + after if after else "")
            return [(one.key.removeprefix(prefix), decode(r.GrantRecord, one.value)) for one in entries]

        grants, token = fill(size, after, fetch)
        return pb.ListGrantsResponse(grants=[grant_view(one) for one in grants], next_page_token=token)

    @unary
    def DeleteGrant(self, request: pb.DeleteGrantRequest, caller: Caller) -> pb.DeleteGrantResponse:
        changed = self._service.run(
            lambda draft: snapshot_decisions.delete_grant(
                draft, caller.name, request.snapshot_id, request.user
            )
        )
        return pb.DeleteGrantResponse(changed=changed)
