"""How the C library's allocator treats what this process takes and gives back: extents, thousands a second.

By default glibc has an arena for each of many threads, each of which keeps what its threads gave back, and
maps and unmaps what is long, page by page anew. Two arenas that map only what is longer than a batch's
pieces took a tenth of the memory and of the processor time less.
"""

import ctypes

from holdfast.base.limits import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From malloc.h."""
ARENAS = 2
MAPPED_FROM_BYTES = 8 * MIB
KEPT_BYTES = 64 * MIB
"""So much that was given back is kept at the end of an arena."""


def settle() -> None:
    """Before any thread is started. Where the C library is another one, nothing is done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
