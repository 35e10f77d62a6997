"""The one place where an error becomes a gRPC status, and where it is read back.

Every status carries a google.rpc.ErrorInfo with domain "holdfast" and the error's reason.
"""

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from holdfast.base import errors

DOMAIN = "holdfast"

# The first class that fits counts.
_CODES: tuple[tuple[type[errors.HoldfastError], int], ...] = (
    (errors.BadInput, code_pb2.INVALID_ARGUMENT),
    (errors.NotFound, code_pb2.NOT_FOUND),
    (errors.AlreadyExists, code_pb2.ALREADY_EXISTS),
    (errors.Precondition, code_pb2.FAILED_PRECONDITION),
    (errors.Exhausted, code_pb2.RESOURCE_EXHAUSTED),
    (errors.Denied, code_pb2.PERMISSION_DENIED),
    (errors.Unauthenticated, code_pb2.UNAUTHENTICATED),
    (errors.Unavailable, code_pb2.UNAVAILABLE),
    (errors.DataLoss, code_pb2.DATA_LOSS),
)


def status_of(error: errors.HoldfastError) -> status_pb2.Status:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    detail = any_pb2.Any()
    detail.Pack(ErrorInfo(reason=error.reason, domain=DOMAIN))
    return status_pb2.Status(code=code, message=error.message, details=[detail])


def abort(context: grpc.ServicerContext, error: errors.HoldfastError) -> None:
    """End the call with `error`'s status. Raises, as `context.abort` does."""
    context.abort_with_status(rpc_status.to_status(status_of(error)))


def error_of(call: grpc.RpcError) -> errors.HoldfastError:
    """The error in a call's status, as it was raised; Unavailable or HoldfastError if it carries none."""
    status: Any = rpc_status.from_call(call) if isinstance(call, grpc.Call) else None
    for detail in status.details if status is not None else ():
        info: Any = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            kind = next((kind for kind, code in _CODES if code == status.code), errors.HoldfastError)
            return kind(info.reason, status.message)
    code, text = call.code(), call.details() or ""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return errors.Unavailable("SERVER_UNREACHABLE", f"The metadata service did not answer: {text}.")
    return errors.HoldfastError(code.name, f"The metadata service answered {code.name}: {text}.")
