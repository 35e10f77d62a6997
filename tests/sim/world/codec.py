"""Records as JSON, remembered: the same few records are read and written again and again.

holdfast.metadata.records turns messages into JSON and back as the real etcd needs it, which takes longer than
all else in a run. What was turned once is looked up here, by its bytes; the functions stay the same.
"""

from google.protobuf.message import Message

from holdfast.metadata import cas, host_actions, records
from holdfast.metadata.records import M

_decoded: dict[tuple[type[Message], bytes], bytes] = {}
_encoded: dict[tuple[type[Message], bytes], bytes] = {}
_LIMIT = 20_000


def decode(message_type: type[M], value: bytes) -> M:
    key = (message_type, value)
    wire = _decoded.get(key)
    if wire is None:
        message = records.decode(message_type, value)
        if len(_decoded) > _LIMIT:
            _decoded.clear()
        _decoded[key] = message.SerializeToString(deterministic=True)
        return message
    return message_type.FromString(wire)


def encode(message: Message) -> bytes:
    key = (type(message), message.SerializeToString(deterministic=True))
    value = _encoded.get(key)
    if value is None:
        value = records.encode(message)
        if len(_encoded) > _LIMIT:
            _encoded.clear()
        _encoded[key] = value
    return value


def install() -> None:
    """For this process."""
    for module in (cas, host_actions):
        if hasattr(module, "decode"):
            setattr(module, "decode", decode)  # noqa: B010
        if hasattr(module, "encode"):
            setattr(module, "encode", encode)  # noqa: B010
