"""The error of a key that cannot be had: never to be taken for lost data."""

from holdfast.base.errors import Unavailable


class KeyUnavailable(Unavailable):
    """What is encrypted cannot be read or written now; nothing is wrong with the objects.

    Args:
        lost: whoever keeps the keys has answered that it has no such key, or that this one does not open
            what it should. Otherwise it could not be asked: try again.
    """

    def __init__(self, message: str, lost: bool = False) -> None:
        super().__init__("KEY_UNAVAILABLE", message)
        self.lost = lost
