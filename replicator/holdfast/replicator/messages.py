"""What the primary says to another host beside the data: JSON in the session's private NBD command.

In band, so that a word about the writes before it needs no other order. `do` names the word:

    hello            {host, epoch, size_bytes} -> {role, boot_id, generation, views, synced_epoch, tracks,
                     misses}; the old session is drained. `tracks`: it keeps an `absent` of the asking host;
                     `misses`: extents are missing there
    beat {lease, left} -> {serves, standby_age_s, may_sync}; an answer is a lease if one is asked for (I-3);
                        one without answers is dead. `left`: bytes of the resync under way, -1 if there is
                        none. `may_sync`: it may begin; that host lets so many volumes be made equal at once
    doubt            {start} -> {pages, next}: regions that may differ, as a bitmap from byte `start` on
    absent           {start} -> {pages, next}: extents that the asking host lacked, the same way
    open_generation  {generation}: catch up
    drop_view        {uid}
    unfill           {extents}: they are missing on the primary, and so here too
    prepare_view     {uid, generation}: freeze, step 1
    flip             {uid}: step 2, no write is under way
    record_view      {uid, freeze_time}: step 3
    settle           {}: data and bitmaps are on disk (step 4, and before `clean`)
    clean            {regions}: these regions are on disk on all in-sync hosts; or
                     {but}: so is all of these pages of `intent` but what is set in them
    synced           {}: the regions in doubt were copied
    digest           {extents} -> {digests}: of each, in hexadecimal, or "missing"

To a host that is not in sync (join.py):

    begin            {left}: parts of its copy are replaced from now on; its views are dropped
    changed          {generation, pages}: these bits are set in that generation
    missing          {pages, first, last}: what is missing is this, and nothing else
    allocated        {offset, length} -> {runs}: where it may hold other than zeros, in bytes
    whole            {}: it holds all; data, bitmaps, and that it is whole are on disk

A word that could not be carried out is answered with {failed: one sentence}; with `hopeless` if that host
can take no part as it is, so that nobody waits for it.
"""

import json
from typing import Any

Message = dict[str, Any]
FAILED = "failed"
HOPELESS = "hopeless"
INDEXES_MAX = 50_000
"""In one word."""


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode(payload: bytes) -> Message:
    """Raises ValueError if it is not a JSON object."""
    message = json.loads(payload)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message
