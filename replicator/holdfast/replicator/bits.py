"""Bitmaps in words (messages.py): pages that hold anything, compressed, a bounded number to a word."""

import base64
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

from holdfast.replicator.bitmap import Bitmap

PAGES_MAX = 64
"""Of 4 KiB: with the worst compression well below what a word may be long (1 MiB)."""

Pages = list[list[object]]


def batches(pages: Iterable[tuple[int, bytes]]) -> Iterator[Pages]:
    """`pages` (Bitmap.pages) as they go into words; nothing if there are none."""
    rest = iter(pages)
    while batch := [
        [at, base64.b64encode(zlib.compress(page, 1)).decode()] for at, page in islice(rest, PAGES_MAX)
    ]:
        yield batch


def pages_of(batch: object) -> list[tuple[int, bytes]]:
    """What `batches` made. Raises ValueError on anything else."""
    if not isinstance(batch, list):
        raise ValueError("pages are a list")
    found = []
    for item in batch:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], int)):
            raise ValueError("a page is an offset and its bytes")
        try:
            content = zlib.decompressobj().decompress(base64.b64decode(str(item[1]), validate=True), 4096)
        except zlib.error as error:
            raise ValueError(f"a page that cannot be read: {error}") from error
        found.append((item[0], content))
    return found


def some_pages(bitmap: Bitmap, start: int) -> tuple[Pages, int]:
    """The first PAGES_MAX pages from byte `start` on, and where to go on; -1 at the end."""
    rest = (page for page in bitmap.pages() if page[0] >= start)
    taken = list(islice(rest, PAGES_MAX))
    encoded = next(batches(taken), [])
    return encoded, taken[-1][0] + len(taken[-1][1]) if len(taken) == PAGES_MAX else -1
