"""Every size and limit that more than one component must agree on, once, with its unit last.

Changing one of the first group changes what is on disk or in the object store: see docs/store.md and
docs/snapshot-format.md before touching it.
"""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

# On disk and in the object store.
BLOCK_BYTES = 4 * KIB
"""Granularity of volume sizes."""
EXTENT_BYTES = 128 * KIB
"""Granularity of `changed`, `frozen` and `missing`, and of snapshots."""
SNAPSHOT_BLOCK_BYTES = 512 * KIB
"""Granularity of the API to the blocks of snapshots."""
REGION_BYTES = 4 * MIB
"""Granularity of `intent`."""

# What a caller may ask for.
VOLUME_MAX_BYTES = 16 * TIB - EXTENT_BYTES
"""A data file on ext4 ends below 16 TiB."""
NAME_MAX_CHARS = 63
PAGE_DEFAULT_ITEMS = 100
LIMIT_MIN_IOPS = 100
"""The least that a volume may be limited to: an initiator's full queue ends in a second or two."""
LIMIT_MIN_BYTES_S = 16 * MIB
PAGE_MAX_ITEMS = 1000

# On the wire.
NBD_REQUEST_MAX_BYTES = 32 * MIB
"""Longest data of one NBD request (the NBD protocol's advice for an unnegotiated maximum)."""
NBD_PORT_FIRST = 20000
NBD_PORT_END = 30000
"""A host's volumes get their NBD ports from [first, end): below Linux's ephemeral range."""

# Time.
HELD_COMMAND_MAX_S = 10.0
"""A command that cannot be acknowledged is answered BUSY after this long: below Linux's 30 s."""
GROUP_GATE_MAX_S = 1.0
"""A volume's writes wait for the other volumes of a group so long at most."""
GROUP_PREPARED_MAX_S = 10.0
"""One that is ready to be frozen with others waits for them so long at most."""
DRAIN_WAIT_MAX_S = 2.0
"""One of which a copy is on its way to another host waits so much longer for that host to have drained."""
RING_WAIT_MAX_S = 6.0
"""And so long waits a process for that, before it resets the ring of the one before it."""
HOST_LEASE_TTL_S = 10
"""Unless the agent is told otherwise (--lease-ttl)."""
BEACON_INTERVAL_S = 0.5
"""The primary asks every in-sync host so often; each answer is a lease to serve reads."""
BEACON_LEASE_S = 2.0
"""Counted by the primary from the sending of the beacon that was answered (I-3)."""
BEACON_MARGIN_S = 0.5
"""A mirror waits so much longer, from its answer: more than clocks can drift apart in a lease."""
LINK_LOST_S = 4.0
"""A host that was not heard of for so long is to be left out."""
LINK_REFUSED_S = 8.0
"""A mirror that answers, and refuses to be made equal for so long, is to be left out."""
PATH_AWAY_S = 3
"""An initiator without a session to the primary for so long, and with I/O at a mirror, moves the volume."""
PATH_MOVE_MIN_S = 120
"""Between two such moves of a volume."""
CRASH_MOVE_MIN_S = 900
"""Between two moves of a volume because its process did not stay: what ends it may follow it."""
SYNC_MAX_BYTES_S = 200 * MIB
"""Of one resync, or of filling one volume from its snapshot, while nobody else needs the disks."""
SYNC_FLOOR_BYTES_S = 8 * MIB
"""It never goes slower, however busy the volume is."""
