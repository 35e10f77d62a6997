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
REGION_BYTES = 4 * MIB
"""Granularity of `intent`."""

# What a caller may ask for.
VOLUME_MAX_BYTES = 16 * TIB - EXTENT_BYTES
"""A data file on ext4 ends below 16 TiB."""
NAME_MAX_CHARS = 63
PAGE_DEFAULT_ITEMS = 100
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
HOST_LEASE_TTL_S = 10
