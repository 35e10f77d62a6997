"""What the primary says to its mirror beside the data: JSON in the session's private NBD command.

In band, so that a word about the writes before it needs no other order. `do` names the word:

    hello            {host, epoch, size_bytes} -> {generation, views, in_doubt}; the old session is drained
    beat             -> {}; a session without answers is dead
    open_generation  {generation}: catch up
    drop_view        {uid}
    unfill           {extents}: they are missing on the primary, and so here too
    prepare_view     {uid, generation}: freeze, step 1
    flip             {uid}: step 2, no write is under way
    record_view      {uid, freeze_time}: step 3
    settle           {}: data and bitmaps are on disk (step 4, and before `clean`)
    clean            {regions}: these regions are on disk on both hosts
    synced           {}: the regions in doubt were copied

A word that could not be carried out is answered with {failed: one sentence}.
"""

import json
from typing import Any

Message = dict[str, Any]
FAILED = "failed"


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode(payload: bytes) -> Message:
    """Raises ValueError if it is not a JSON object."""
    message = json.loads(payload)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message
