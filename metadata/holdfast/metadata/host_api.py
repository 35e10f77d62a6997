"""HostService: see host.proto for each method's contract and errors. For operators only."""

from holdfast.api.host.v1 import host_pb2 as pb
from holdfast.api.host.v1 import host_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.cas import Draft
from holdfast.metadata.lookups import is_name, not_found
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import unary
from holdfast.metadata.service import Service
from holdfast.metadata.views import host_view


def delete(draft: Draft, host_id: str) -> bool:
    """Forget a host: a decision over a draft (see cas.py)."""
    host = draft.get(keys.host(host_id), r.HostRecord) if is_name(host_id) else None
    if host is None:
        raise not_found("host", host_id)
    if draft.entry(keys.host_lease(host_id)) is not None:
        raise Precondition("ALIVE", f"The agent of host {host_id!r} still runs: stop it first.")
    # Placement changes the host's record with each assignment, and that is compared.
    if draft.peek_under(keys.assignments(host_id), r.Assignment):
        raise Precondition("IN_USE", f"Volumes are assigned to host {host_id!r}: move or delete them first.")
    draft.delete(keys.host(host_id))
    return True


class HostServicer(host_pb2_grpc.HostServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def GetHost(self, request: pb.GetHostRequest, caller: Caller) -> pb.GetHostResponse:
        caller.need_operator()
        host = None
        if is_name(request.host_id):
            (host,) = self._service.records([keys.host(request.host_id)], r.HostRecord)
        if host is None:
            raise not_found("host", request.host_id)
        return pb.GetHostResponse(host=self._views([host])[0])

    @unary
    def ListHosts(self, request: pb.ListHostsRequest, caller: Caller) -> pb.ListHostsResponse:
        caller.need_operator()

        def fetch(after: str, limit: int) -> list[tuple[str, r.HostRecord | None]]:
            entries, _ = self._service.etcd.range(keys.HOSTS, limit, keys.HOSTS + after if after else "")
            return [(one.key.removeprefix(keys.HOSTS), decode(r.HostRecord, one.value)) for one in entries]

        hosts, token = fill(page_size(request.page_size), read_token(request.page_token), fetch)
        return pb.ListHostsResponse(hosts=self._views(hosts), next_page_token=token)

    @unary
    def DeleteHost(self, request: pb.DeleteHostRequest, caller: Caller) -> pb.DeleteHostResponse:
        caller.need_operator()
        changed = self._service.run(lambda draft: delete(draft, request.host_id))
        return pb.DeleteHostResponse(changed=changed)

    def _views(self, hosts: list[r.HostRecord]) -> list[pb.Host]:
        leases = self._service.records([keys.host_lease(one.host_id) for one in hosts], r.HostLease)
        return [
            host_view(
                host,
                lease.boot_id if lease else "",
                self._service.etcd.count(keys.assignments(host.host_id)),
            )
            for host, lease in zip(hosts, leases, strict=True)
        ]
