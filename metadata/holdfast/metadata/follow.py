"""List, then watch, for as long as it takes: what a reconciler sees of etcd."""

import logging
import threading
from collections.abc import Callable, Iterator

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.metadata.etcd import Compacted, Entry, Etcd, Event

_LOG = logging.getLogger(__name__)
RETRY_S = 0.5


def follow(
    etcd: Etcd,
    prefix: str,
    stop: threading.Event,
    unreachable: Callable[[Unavailable], None] = lambda _: None,
) -> Iterator[list[Event]]:
    """Everything below `prefix` as puts, in the first list; then each change, until `stop`.

    The first list may be empty: it says that there is nothing. All events of one transaction are in one
    list. If etcd is out of reach it tries on, calling `unreachable` each time that the listing fails. If
    the history is gone (Compacted), or etcd refuses, it lists again and gives the difference: changes in
    between are merged, deletions included. It never ends by itself: nobody would follow any more.
    """
    known: dict[str, Entry] = {}
    first = True
    while not stop.is_set():
        try:
            entries, revision = etcd.range(prefix)
        except HoldfastError as error:
            if isinstance(error, Unavailable):
                unreachable(error)
            _LOG.warning("%s cannot be listed: %s", prefix, error)
            stop.wait(RETRY_S)
            continue
        changes = difference(known, entries, revision)
        if changes or first:
            yield changes
        first = False
        known = {entry.key: entry for entry in entries}
        try:
            for events in etcd.watch(prefix, revision + 1, stop):
                _apply(known, events)
                yield events
        except Compacted:
            _LOG.info("the history of %s is gone: listing again", prefix)
        except HoldfastError as error:
            _LOG.warning("the watch of %s is interrupted: %s", prefix, error)
            stop.wait(RETRY_S)


def difference(known: dict[str, Entry], entries: list[Entry], revision: int) -> list[Event]:
    """What happened between `known` and `entries`, which are all there is at `revision`."""
    now = {entry.key for entry in entries}
    deleted = [Event(key, None, revision) for key in sorted(known.keys() - now)]
    changed = [
        Event(entry.key, entry, entry.mod_revision)
        for entry in entries
        if entry.key not in known or known[entry.key].mod_revision != entry.mod_revision
    ]
    return deleted + changed


def _apply(known: dict[str, Entry], events: list[Event]) -> None:
    for event in events:
        if event.entry is None:
            known.pop(event.key, None)
        else:
            known[event.key] = event.entry
