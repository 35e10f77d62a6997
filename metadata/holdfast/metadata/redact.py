"""Messages as log lines, without what the protos mark `(secret)`."""

from google.protobuf.message import Message

from holdfast.api.attachment.v1 import attachment_pb2
from holdfast.metadata.records import encode

_HIDDEN = "«redacted»"


def redacted(message: Message) -> str:
    """The message's JSON with every secret field replaced."""
    copy = type(message).FromString(message.SerializeToString())
    _hide(copy)
    return encode(copy).decode()


def _hide(message: Message) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[attachment_pb2.secret]:
            message.ClearField(field.name)
            if field.type == field.TYPE_STRING and isinstance(value, str):
                setattr(message, field.name, _HIDDEN)
        elif field.message_type is not None:
            for inner in (value,) if isinstance(value, Message) else value:
                if isinstance(inner, Message):
                    _hide(inner)
