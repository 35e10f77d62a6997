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
    next_revision = start_revision
    backoff_s = BACKOFF_FIRST_S
    while not (stop.is_set() or endpoints.closed.is_set()):
        index, channel = endpoints.current()
        stream = _Stream(channel, _create(prefix, next_revision), stop)
        try:
            for response in stream.call:
                backoff_s = BACKOFF_FIRST_S
                if response.canceled:
                    if response.compact_revision:
                        raise Compacted(response.compact_revision)
                    break
                events = [event_of(one) for one in response.events if one.kv.mod_revision >= next_revision]
                next_revision = _after(response, next_revision)
                if events:
                    yield events
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


def _create(prefix: str, next_revision: int) -> pb.WatchCreateRequest:
    """Ask from one revision before the one wanted.

    etcd before 3.4.36 and 3.5.18 silently leaves out a deletion at the very revision that was compacted
    (etcd issues 18089, 19179). Asked for the one before, it says that it is compacted.
    """
    return pb.WatchCreateRequest(
        key=prefix.encode(),
        range_end=prefix_end(prefix),
        start_revision=max(1, next_revision - 1) if next_revision else 0,
        progress_notify=True,
    )


def _after(response: pb.WatchResponse, next_revision: int) -> int:
    """The first revision not seen, after `response`."""
    if response.events:
        return max(next_revision, response.events[-1].kv.mod_revision + 1)
    if response.created and next_revision:
        # The store's revision, which may be far ahead of what this stream is about to send.
        return next_revision
    # A progress notice, or the answer to "from now on": everything so far has been seen.
    return max(next_revision, response.header.revision + 1)
