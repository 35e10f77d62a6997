"""CollectionService: see collection.proto for each method's contract and errors. For operators only."""

from collections.abc import Iterator

from holdfast.api.collection.v1 import collection_pb2 as pb
from holdfast.api.collection.v1 import collection_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import collection_changes, keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.service import AtEnd, Service
from holdfast.metadata.views import collection_view


class CollectionServicer(collection_pb2_grpc.CollectionServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def GetCollection(self, request: pb.GetCollectionRequest, caller: Caller) -> pb.GetCollectionResponse:
        caller.need_operator()
        return pb.GetCollectionResponse(collection=self._view())

    @stream
    def WatchCollection(
        self, request: pb.WatchCollectionRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchCollectionResponse]:
        caller.need_operator()
        for view in self._service.changes([keys.COLLECTION], self._view, at_end):
            yield pb.WatchCollectionResponse(collection=view)

    @unary
    def RunCollection(self, request: pb.RunCollectionRequest, caller: Caller) -> pb.RunCollectionResponse:
        caller.need_operator()
        record, changed = self._service.run(collection_changes.request)
        return pb.RunCollectionResponse(collection=collection_view(record), changed=changed)

    def _view(self) -> pb.Collection:
        (record,) = self._service.records([keys.COLLECTION], r.CollectionRecord)
        return collection_view(record or r.CollectionRecord())
