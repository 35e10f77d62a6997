"""The lab's one exception: its text says what went wrong and what to do about it."""


class LabError(Exception):
    """Something the lab needs is missing or did not happen; the message says what to do."""


class GuestGone(LabError):
    """The guest ended (power cut, crash, shutdown) while a command was running in it.

    Whether the command had taken effect is unknown.
    """
