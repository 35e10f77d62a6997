"""What every method shares: who calls, a log line without secrets, and errors as statuses.

A servicer's methods take (request, caller) and return or yield; `unary` and `stream` make of them what
gRPC calls.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from holdfast.base.errors import HoldfastError
from holdfast.metadata.caller import SERVICES, USERS, Caller, caller_of
from holdfast.metadata.redact import redacted
from holdfast.metadata.statuses import abort

_LOG = logging.getLogger("holdfast.metadata.rpc")
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


def unary(
    method: Callable[[Any, _Request, Caller], _Response],
) -> Callable[[Any, _Request, grpc.ServicerContext], _Response]:
    return _unary(method, USERS)


def unary_for_services(
    method: Callable[[Any, _Request, Caller], _Response],
) -> Callable[[Any, _Request, grpc.ServicerContext], _Response]:
    """Of what only the cluster's own services may call."""
    return _unary(method, SERVICES)


def _unary(
    method: Callable[[Any, _Request, Caller], _Response], roles: tuple[str, ...]
) -> Callable[[Any, _Request, grpc.ServicerContext], _Response]:
    @functools.wraps(method)
    def call(self: Any, request: _Request, context: grpc.ServicerContext) -> _Response:
        with _answering(method.__name__, request, context, roles) as caller:
            return method(self, request, caller)
        raise AssertionError("a refused call has been aborted, which raises")

    return call


def stream(
    method: Callable[[Any, _Request, Caller, Callable[[Callable[[], None]], bool]], Iterator[_Response]],
) -> Callable[[Any, _Request, grpc.ServicerContext], Iterator[_Response]]:
    """The method also gets `at_end`, with which it leaves a function to be called when the client goes."""

    @functools.wraps(method)
    def call(self: Any, request: _Request, context: grpc.ServicerContext) -> Iterator[_Response]:
        with _answering(method.__name__, request, context, USERS) as caller:
            yield from method(self, request, caller, context.add_callback)

    return call


def collect(
    method: Callable[[Any, Iterator[_Request], Caller], _Response],
) -> Callable[[Any, Iterator[_Request], grpc.ServicerContext], _Response]:
    """For a stream of requests with one answer."""

    @functools.wraps(method)
    def call(self: Any, requests: Iterator[_Request], context: grpc.ServicerContext) -> _Response:
        with _answering(method.__name__, None, context, USERS) as caller:
            return method(self, requests, caller)
        raise AssertionError("a refused call has been aborted, which raises")

    return call


@contextmanager
def _answering(
    name: str, request: Message | None, context: grpc.ServicerContext, roles: tuple[str, ...]
) -> Iterator[Caller]:
    """Give who calls; log the end; turn an error into the call's status."""
    started_s = time.monotonic()
    caller = None
    try:
        caller = caller_of(context, roles)
        yield caller
        _log(name, caller, request, "OK", started_s)
        return
    except HoldfastError as error:
        refusal = error
    except Exception:
        # What went wrong is for the log, not for the caller.
        _LOG.exception("%s failed: %s", name, _shown(request))
        refusal = HoldfastError("INTERNAL", f"{name} failed for a defect of the service's: see its log.")
    _log(name, caller, request, refusal.reason, started_s)
    abort(context, refusal)


def _log(name: str, caller: Caller | None, request: Message | None, outcome: str, started_s: float) -> None:
    if _LOG.isEnabledFor(logging.INFO):
        took_ms = (time.monotonic() - started_s) * 1000
        who = caller.name if caller else "?"
        _LOG.info("%s by %s: %s in %.1f ms: %s", name, who, outcome, took_ms, _shown(request))


def _shown(request: Message | None) -> str:
    return "a stream" if request is None else redacted(request)
