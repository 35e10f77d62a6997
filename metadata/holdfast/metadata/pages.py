"""Lists, page by page, in the order of keys. A token says after which key to go on, and reveals no more."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from holdfast.base.errors import BadInput
from holdfast.base.limits import PAGE_DEFAULT_ITEMS, PAGE_MAX_ITEMS

Item = TypeVar("Item")
_MARK = b"h1:"
TOKEN_MAX_CHARS = 512


def page_size(asked: int, default: int = PAGE_DEFAULT_ITEMS, most: int = PAGE_MAX_ITEMS) -> int:
    """0 is the default; more than the most is the most. Raises BadInput BAD_PAGE_SIZE if negative."""
    if asked < 0:
        raise BadInput("BAD_PAGE_SIZE", f"page_size {asked} is negative: leave it out, or ask for 1 or more.")
    return min(asked or default, most)


def make_token(last: str) -> str:
    return base64.urlsafe_b64encode(_MARK + last.encode()).decode()


def read_token(token: str) -> str:
    """What `make_token` was given; "" for no token. Raises BadInput BAD_PAGE_TOKEN."""
    if not token:
        return ""
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        text = raw.removeprefix(_MARK).decode()
    except (binascii.Error, ValueError) as error:
        raise _bad_token() from error
    if len(token) > TOKEN_MAX_CHARS or not raw.startswith(_MARK) or "/" in text or not text.isprintable():
        raise _bad_token()
    return text


def read_number(token: str) -> int | None:
    """As `read_token`, of a token that was made of a number; None for no token."""
    text = read_token(token)
    if text and not (text.isascii() and text.isdigit()):
        raise _bad_token()
    return int(text) if text else None


def fill(
    size: int, after: str, fetch: Callable[[str, int], Sequence[tuple[str, Item | None]]]
) -> tuple[list[Item], str]:
    """A page of what `fetch(after, limit)` gives, and the next page's token ("" after the last).

    `fetch` returns (key, item) in order, at most `limit`, fewer only at the end; an item of None is
    passed over.
    """
    items: list[Item] = []
    while True:
        batch = fetch(after, size + 1)
        for key, item in batch:
            if item is None:
                after = key
                continue
            if len(items) == size:
                return items, make_token(after)
            items.append(item)
            after = key
        if len(batch) <= size:
            return items, ""


def _bad_token() -> BadInput:
    return BadInput("BAD_PAGE_TOKEN", "That page_token is not one of ours: start again without a token.")
