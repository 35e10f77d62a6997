"""Records as bytes: the canonical JSON of a message, as it stands in etcd.

Field names as in the proto, keys sorted, no spaces, 64-bit integers as decimal strings and bytes in
base64 (the proto3 JSON mapping). A field with its default value is left out, so equal messages are equal
bytes, and a reader treats what is absent as zero, false or empty.
"""

import json
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from holdfast.base.errors import DataLoss

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode(message_type: type[M], value: bytes) -> M:
    """The message in `value`. Fields of a newer version are ignored. Raises DataLoss BAD_RECORD."""
    message = message_type()
    try:
        fields = json.loads(value)
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        json_format.ParseDict(fields, message, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError) as error:
        kind = message_type.DESCRIPTOR.name
        raise DataLoss("BAD_RECORD", f"etcd holds a {kind} that cannot be read: {error}.") from error
    return message


def clear(message: Message, *fields: str) -> None:
    """Give fields of a message their default values."""
    for name in fields:
        message.ClearField(name)
