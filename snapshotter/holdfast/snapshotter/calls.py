"""What every call of the block API shares: the caller's quota, and errors of the object store."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.base.errors import DataLoss, Unavailable
from holdfast.metadata.caller import Caller
from holdfast.snapshotter.quotas import Quotas

_LOG = logging.getLogger(__name__)


@contextmanager
def serving(quotas: Quotas, caller: Caller) -> Iterator[None]:
    """One of the caller's calls; what is wrong with the object store is told to the log in full."""
    with quotas.call(caller.name):
        try:
            yield
        except DataLoss as error:
            _LOG.error("%s asked for what is lost: %s", caller.name, error.message)
            raise
        except Unavailable as error:
            if not error.reason.startswith("OBJECT_STORE_"):
                raise
            _LOG.warning("%s: %s", caller.name, error.message)
            # Where the store is, and why it fails, is not the caller's to know.
            raise Unavailable(
                "OBJECT_STORE_UNREACHABLE", "The object store cannot be reached now: try again."
            ) from error
