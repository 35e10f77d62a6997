"""A watch that goes on over restarts and between members, losing and repeating nothing.

Each response holds whole revisions, so everything up to the last event's revision has been seen, and
the next stream starts just after it. A member that lags behind simply waits for that revision.
"""

import threading
from collections.abc import Iterator

import grpc
from holdfast.api.etcd.v1 import etcd_pb2 as pb
from holdfast.metadata.etcd_endpoints import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    METADATA,
    Endpoints,
    may_pass,
    translate,
)
from holdfast.metadata.etcd_types import Compacted, Event, event_of, prefix_end

STOP_CHECK_S = 0.1
_PATH = "/etcdserverpb.Watch/Watch"


class _Stream:
    """One watch stream to one member. gRPC's own sender thread also notices `stop`."""

    def __init__(self, channel: grpc.Channel, create: pb.WatchCreateRequest, stop: threading.Event) -> None:
        self._create = create
        self._stop = stop
        self._ended = threading.Event()
        method = channel.stream_stream(
            _PATH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )
        self.call = method(self._requests(), metadata=METADATA)

    def _requests(self) -> Iterator[pb.WatchRequest]:
        yield pb.WatchRequest(create_request=self._create)
        while not self._ended.is_set():
            if self._stop.wait(STOP_CHECK_S):
                self.call.cancel()
                return

    def close(self) -> None:
        self._ended.set()
        self.call.cancel()


def watch(
    endpoints: Endpoints, prefix: str, start_revision: int, stop: threading.Event
) -> Iterator[list[Event]]:
    """Yield the changes below `prefix` from `start_revision` on (0: from now), until `stop`.

    All events of one transaction are in one list. Raises Compacted if the history is gone.
    """
    create = pb.WatchCreateRequest(
        key=prefix.encode(), range_end=prefix_end(prefix), start_revision=start_revision, progress_notify=True
    )
    backoff_s = BACKOFF_FIRST_S
    while not (stop.is_set() or endpoints.closed.is_set()):
        index, channel = endpoints.current()
        stream = _Stream(channel, create, stop)
        try:
            for response in stream.call:
                backoff_s = BACKOFF_FIRST_S
                if response.canceled:
                    if response.compact_revision:
                        raise Compacted(response.compact_revision)
                    break
                _advance(create, response)
                if response.events:
                    yield [event_of(event) for event in response.events]
        except grpc.RpcError as error:
            if not may_pass(error):
                raise translate(error) from error
        finally:
            stream.close()
        if stop.is_set():
            return
        endpoints.leave(index)
        endpoints.closed.wait(backoff_s)
        backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)


def _advance(create: pb.WatchCreateRequest, response: pb.WatchResponse) -> None:
    """Remember in `create` where the next stream starts."""
    if response.events:
        create.start_revision = response.events[-1].kv.mod_revision + 1
    elif not response.created or create.start_revision == 0:
        # A progress notice, or the answer to "from now on": everything so far has been seen.
        create.start_revision = max(create.start_revision, response.header.revision + 1)
