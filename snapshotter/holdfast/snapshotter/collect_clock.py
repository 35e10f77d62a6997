"""What time it is by the object store's own clock: of a small object that is put to be looked at.

Only times by one clock are ever compared. The object goes at once; of a run that was killed, at the next.
"""

import secrets
from contextlib import suppress

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.snapshotter.objects import ObjectStore

PREFIX = "collection/"
LEFT_BEHIND_S = 3600.0
"""Another collector's object that is older than this, by the store's clock, is of one that was killed."""


def read(store: ObjectStore) -> float:
    """Seconds since 1970. Raises Unavailable."""
    name = f"{PREFIX}clock-{secrets.token_hex(6)}"
    store.put(name, b"what time is it?")
    try:
        found = list(store.list(PREFIX))
        now_s = next((one.modified_s for one in found if one.name == name), None)
        if now_s is None:
            raise Unavailable(
                "OBJECT_STORE_LAGS", f"The object store took object {name} and does not list it yet."
            )
        for one in found:
            if one.name.startswith(f"{PREFIX}clock-") and now_s - one.modified_s > LEFT_BEHIND_S:
                store.delete(one.name)
        return now_s
    finally:
        with suppress(HoldfastError):
            store.delete(name)
