"""How tests walk an error table: the status, the reason in its details, and that nothing was changed."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from holdfast.metadata import keys
from holdfast.metadata.etcd import Etcd


def refused(etcd: Etcd, method: Callable[..., Any], request: Message, code: str, reason: str) -> str:
    """Call, expect that status and reason in its details, and an unchanged etcd; the message."""
    before = etcd.range(keys.PREFIX)[0]
    with pytest.raises(grpc.RpcError) as raised:
        answer = method(request, timeout=20)
        if hasattr(answer, "__next__"):
            list(answer)
    error: Any = raised.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    assert error.code().name == code, error
    (detail,) = status.details
    info: Any = ErrorInfo()
    assert detail.Unpack(info)
    assert (info.domain, info.reason) == ("holdfast", reason)
    assert len(status.message) > 20 and status.message.endswith("."), "one sentence that can be acted on"
    assert etcd.range(keys.PREFIX)[0] == before, "a refused call changes nothing"
    return str(status.message)
