"""Which reads of a snapshot follow each other, and how far to fetch ahead of each sequence.

Copies read in several sequences at once: nbdcopy has a connection for each 128 MiB, hydration has two hosts.
So several are known at a time, and what one of them does says nothing about the others.

The first two reads of a sequence fetch what they need. From then on ever more is fetched beyond it, since
each GET costs a server as much as some MiB do. These are hints: they are changed without a lock, and at
worst something is fetched too early or too late.
"""

from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry

FIRST_EXTENTS = 16
"""2 MiB; four times as much each time that half of what was fetched ahead has been used."""
MAX_EXTENTS = 256
"""32 MiB: about a pack of what does not compress."""
NEAR_EXTENTS = 16
"""A read that starts so near the end of a sequence goes on from it: several threads answer it, a little out
of order."""
SEQUENCES = 8
"""Of one snapshot."""


class Sequence:
    """Reads that follow each other."""

    def __init__(self, end: int) -> None:
        self.expected = end
        """The end of the furthest read."""
        self.ahead_to = end
        """What is before it has been asked for."""
        self._extents = FIRST_EXTENTS

    def due(self) -> tuple[int, int]:
        """The extents [first, end) to ask for now; empty if there is enough ahead.

        Never past the shard of the last read: a damaged one further on must not fail a read that does not
        need it.
        """
        first = max(self.expected, self.ahead_to)
        if first > self.expected + self._extents // 2:
            return first, first
        shard_end = ((self.expected - 1) // SHARD_EXTENTS + 1) * SHARD_EXTENTS
        return first, max(first, min(first + self._extents, shard_end))

    def asked(self, end: int) -> None:
        """What was due has been asked for, up to `end`."""
        if end > self.ahead_to:
            self.ahead_to = end
            self._extents = min(4 * self._extents, MAX_EXTENTS)


class Sequences:
    """Those of one snapshot, the one that was used last at the end."""

    def __init__(self) -> None:
        self._known: list[Sequence] = []

    def follow(self, wanted: range) -> Sequence | None:
        """The sequence that a read of these extents leads on; None if it is the first of one, or behind."""
        known = [*self._known]
        for sequence in reversed(known):
            if abs(wanted.start - sequence.expected) <= NEAR_EXTENTS:
                leads = wanted.stop > sequence.expected
                sequence.expected = max(sequence.expected, wanted.stop)
                known.remove(sequence)
                self._known = [*known, sequence]
                return sequence if leads else None
        self._known = [*known, Sequence(wanted.stop)][-SEQUENCES:]
        return None


def whole_packs(entries: list[Entry]) -> int:
    """How many of these, from the first on, are best asked for: up to the end of a pack, if that is near.

    What is left of a pack afterwards would be a GET of its own.
    """
    changes = [
        at
        for at in range(FIRST_EXTENTS, len(entries))
        if entries[at].pack is not entries[at - 1].pack and entries[at].pack != entries[at - 1].pack
    ]
    return changes[-1] if changes else len(entries)
