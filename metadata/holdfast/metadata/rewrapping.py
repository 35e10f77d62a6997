"""Asks snapshotters, which alone have keys, to wrap a data key anew: one after the other, until one can."""

import random

import grpc

from holdfast.api.key.v1 import key_pb2, key_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.tls import TlsFiles
from holdfast.metadata import keys
from holdfast.metadata.client import open_channel
from holdfast.metadata.encryption_decisions import Rewrapped, Wanted
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.records import decode
from holdfast.metadata.statuses import error_of

CALL_TIMEOUT_S = 25.0
"""For one snapshotter: two questions to its key service."""
ASKED_MAX = 3


class Rewrapper:
    """For many threads. `tls` are a service's."""

    def __init__(self, etcd: Etcd, tls: TlsFiles) -> None:
        self._etcd = etcd
        self._tls = tls

    def rewrap(self, wanted: Wanted) -> Rewrapped:
        """Raises Unavailable KEY_UNAVAILABLE, Precondition NO_SUCH_KEY, or what etcd raises."""
        trouble: HoldfastError = Unavailable(
            "KEY_UNAVAILABLE", "No snapshotter runs, and they alone have keys: start one, or try again later."
        )
        for lease in self._snapshotters():
            try:
                return Rewrapped(wanted.snapshot_uid, self._ask(lease, wanted))
            except Unavailable as error:
                trouble = error
        if trouble.reason != "KEY_UNAVAILABLE":
            trouble = Unavailable("KEY_UNAVAILABLE", f"No snapshotter could be asked: {trouble.message}")
        raise trouble

    def _snapshotters(self) -> list[r.SnapshotterLease]:
        entries, _ = self._etcd.range(keys.SNAPSHOTTER_LEASES)
        leases = [decode(r.SnapshotterLease, entry.value) for entry in entries]
        serving = [lease for lease in leases if lease.grpc_port]
        return random.sample(serving, min(ASKED_MAX, len(serving)))

    def _ask(self, lease: r.SnapshotterLease, wanted: Wanted) -> r.WrappedKey:
        address = lease.nbd_address
        host = f"[{address}]" if ":" in address else address
        request = key_pb2.RewrapRequest(
            snapshot_uid=wanted.snapshot_uid,
            data_key=wanted.data_key,
            to_user=wanted.to_user,
            to_name=wanted.to_name,
        )
        with open_channel(f"{host}:{lease.grpc_port}", self._tls) as channel:
            try:
                answer = key_pb2_grpc.KeyServiceStub(channel).Rewrap(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                raise error_of(error) from error
        return answer.data_key
