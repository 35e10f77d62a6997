"""HostService: see host.proto for each method's contract and errors. For operators only."""

from collections.abc import Iterator

from holdfast.api.host.v1 import host_pb2 as pb
from holdfast.api.host.v1 import host_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import host_decisions, keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.lookups import is_name, not_found
from holdfast.metadata.pages import fill, page_size, read_token
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.service import AtEnd, Service
from holdfast.metadata.views import host_view


class HostServicer(host_pb2_grpc.HostServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def GetHost(self, request: pb.GetHostRequest, caller: Caller) -> pb.GetHostResponse:
        caller.need_operator()
        return pb.GetHostResponse(host=self._find(request.host_id))

    @unary
    def ListHosts(self, request: pb.ListHostsRequest, caller: Caller) -> pb.ListHostsResponse:
        caller.need_operator()

        def fetch(after: str, limit: int) -> list[tuple[str, r.HostRecord | None]]:
            entries, _ = self._service.etcd.range(keys.HOSTS, limit, keys.HOSTS + after if after else "")
            return [(one.key.removeprefix(keys.HOSTS), decode(r.HostRecord, one.value)) for one in entries]

        hosts, token = fill(page_size(request.page_size), read_token(request.page_token), fetch)
        return pb.ListHostsResponse(hosts=self._views(hosts), next_page_token=token)

    @stream
    def WatchHost(
        self, request: pb.WatchHostRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchHostResponse]:
        caller.need_operator()
        host_id = self._find(request.host_id).host_id

        def look() -> pb.Host | None:
            (host,) = self._service.records([keys.host(host_id)], r.HostRecord)
            return self._views([host])[0] if host else None

        # Each assignment that comes or goes changes the host's record too: its allocated_bytes.
        followed = [keys.host(host_id), keys.host_lease(host_id)]
        for view in self._service.changes(followed, look, at_end):
            yield pb.WatchHostResponse(host=view, deleted=view is None)

    @unary
    def DeleteHost(self, request: pb.DeleteHostRequest, caller: Caller) -> pb.DeleteHostResponse:
        caller.need_operator()
        host_id, run = request.host_id, self._service.run
        if request.gone:
            for uid in run(lambda draft: host_decisions.need_given_up(draft, host_id)):
                run(lambda draft, uid=uid: host_decisions.give_up(draft, uid, host_id))  # type: ignore[misc]
        changed = run(lambda draft: host_decisions.delete(draft, host_id))
        return pb.DeleteHostResponse(changed=changed)

    @unary
    def DrainHost(self, request: pb.DrainHostRequest, caller: Caller) -> pb.DrainHostResponse:
        return pb.DrainHostResponse(changed=self._set_draining(request.host_id, caller, True))

    @unary
    def UndrainHost(self, request: pb.UndrainHostRequest, caller: Caller) -> pb.UndrainHostResponse:
        return pb.UndrainHostResponse(changed=self._set_draining(request.host_id, caller, False))

    def _set_draining(self, host_id: str, caller: Caller, draining: bool) -> bool:
        caller.need_operator()
        return self._service.run(lambda draft: host_decisions.set_draining(draft, host_id, draining))

    def _find(self, host_id: str) -> pb.Host:
        host = None
        if is_name(host_id):
            (host,) = self._service.records([keys.host(host_id)], r.HostRecord)
        if host is None:
            raise not_found("host", host_id)
        return self._views([host])[0]

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
