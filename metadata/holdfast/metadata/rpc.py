"""What every method shares: who calls, a log line without secrets, and errors as statuses.

A servicer's methods take (request, caller) and return or yield; `unary` and `stream` make of them what
gRPC calls.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from holdfast.base.errors import HoldfastError
from holdfast.metadata.caller import Caller, caller_of
from holdfast.metadata.redact import redacted
from holdfast.metadata.statuses import abort

_LOG = logging.getLogger("holdfast.metadata.rpc")
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


def unary(
    method: Callable[[Any, _Request, Caller], _Response],
) -> Callable[[Any, _Request, grpc.ServicerContext], _Response]:
    @functools.wraps(method)
    def call(self: Any, request: _Request, context: grpc.ServicerContext) -> _Response:
        started_s = time.monotonic()
        caller = None
        try:
            caller = caller_of(context)
            response = method(self, request, caller)
            _log(method.__name__, caller, request, "OK", started_s)
            return response
        except HoldfastError as error:
            _log(method.__name__, caller, request, error.reason, started_s)
            abort(context, error)
            raise AssertionError("abort raises") from error

    return call


def stream(
    method: Callable[[Any, _Request, Caller, Callable[[Callable[[], None]], bool]], Iterator[_Response]],
) -> Callable[[Any, _Request, grpc.ServicerContext], Iterator[_Response]]:
    """The method also gets `at_end`, with which it leaves a function to be called when the client goes."""

    @functools.wraps(method)
    def call(self: Any, request: _Request, context: grpc.ServicerContext) -> Iterator[_Response]:
        started_s = time.monotonic()
        caller = None
        try:
            caller = caller_of(context)
            yield from method(self, request, caller, context.add_callback)
            _log(method.__name__, caller, request, "OK", started_s)
        except HoldfastError as error:
            _log(method.__name__, caller, request, error.reason, started_s)
            abort(context, error)

    return call


def _log(name: str, caller: Caller | None, request: Message, outcome: str, started_s: float) -> None:
    if _LOG.isEnabledFor(logging.INFO):
        took_ms = (time.monotonic() - started_s) * 1000
        who = caller.name if caller else "?"
        _LOG.info("%s by %s: %s in %.1f ms: %s", name, who, outcome, took_ms, redacted(request))
