"""BlockService: see blocks.proto for each method's contract and errors."""

from holdfast.api.blocks.v1 import blocks_pb2_grpc
from holdfast.metadata.etcd import Etcd
from holdfast.snapshotter.block_access import BlockAccess
from holdfast.snapshotter.block_tokens import BlockTokens
from holdfast.snapshotter.blocks_read_api import ReadMethods
from holdfast.snapshotter.blocks_write_api import WriteMethods
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.quotas import Quotas
from holdfast.snapshotter.serve import Readers
from holdfast.snapshotter.staging import Stagers


class BlockServicer(ReadMethods, WriteMethods, blocks_pb2_grpc.BlockServiceServicer):
    """Args:
    readers: of guests, apart from those of hosts that hydrate.
    """

    def __init__(
        self, etcd: Etcd, store: ObjectStore, readers: Readers, stagers: Stagers, token_key: bytes
    ) -> None:
        quotas, access = Quotas(), BlockAccess(etcd)
        ReadMethods.__init__(self, access, readers, BlockTokens(token_key), quotas)
        WriteMethods.__init__(self, etcd, access, store, readers, stagers, quotas)
