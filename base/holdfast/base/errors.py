"""Errors that say what happened, to what, and who must do what about it.

A raiser picks the class by who must act; `reason` is the stable word for programs and the message is
one sentence for a person. Components map classes to their own statuses in one place each (gRPC codes
in the metadata service, NBD errnos, SCSI sense), so that no raiser thinks about a wire.
"""


class HoldfastError(Exception):
    """Base of every error that is meant to be shown.

    Args:
        reason: one upper-case word that programs may rely on, e.g. `BAD_SIZE`.
        message: one sentence: what happened, to what, what to do.
    """

    retryable = False

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class BadInput(HoldfastError):
    """The caller sent something malformed; sending it again changes nothing."""


class NotFound(HoldfastError):
    """It does not exist, or the caller may not know that it does (I-10)."""


class AlreadyExists(HoldfastError):
    """The id is taken by something that differs from what was asked for."""


class Precondition(HoldfastError):
    """The state forbids it; the caller must change the state first."""


class StaleEpoch(Precondition):
    """The caller acts for an epoch that is over; it must look again before anything else."""

    REASON = "STALE_EPOCH"

    def __init__(self, message: str) -> None:
        super().__init__(self.REASON, message)


class Exhausted(HoldfastError):
    """There is no room, or a limit is reached."""


class Denied(HoldfastError):
    """The caller is known and may not do this."""


class Unauthenticated(HoldfastError):
    """The caller is not known."""


class Unavailable(HoldfastError):
    """Something needed is out of reach. Nothing was changed; try again."""

    retryable = True


class OutcomeUnknown(Unavailable):
    """It may or may not have happened. Look before trying again; never report it as failed."""


class DataLoss(HoldfastError):
    """Stored bytes are missing or are not what was stored."""
