"""Frozen views (I-8), and what counts as changed since: judged from the files.

A view is right if it is the volume at some moment between the asking for the freeze and its recording; it is
the same on every host that vouches for it, and stays so. An extent that is not what it was at the freeze is
marked in a `changed` generation of then or later, on every host that is in sync.
"""

import json
from collections.abc import Callable
from typing import Any

from holdfast.replicator.testing_disk import DataInode, Disk

from .history import SECTOR_BYTES, History, origin_content

EXTENT_BYTES = 128 * 1024


class Views:
    def __init__(
        self,
        history: History,
        size_bytes: int,
        live: Callable[[str, int, int], bytearray],
        disk_of: Callable[[str], Disk],
        had_trouble: Callable[[str], bool],
        violated: Callable[[str], None],
    ) -> None:
        self._history = history
        self._size_bytes = size_bytes
        self._live = live
        self._disk_of = disk_of
        self._had_trouble = had_trouble
        self._violated = violated
        self._asked: dict[str, int] = {}
        self._frozen: dict[str, tuple[int, list[bytes]]] = {}

    def asked(self, uid: str) -> None:
        self._asked[uid] = self._history.tick()

    @property
    def wanted(self) -> list[str]:
        """Asked for, and not yet seen to be frozen."""
        return [uid for uid in self._asked if uid not in self._frozen]

    def recorded(self, uid: str, value: bytes, holds_memory: Callable[[str, str], bool]) -> None:
        """The snapshot's record, whenever it changes."""
        raw: dict[str, Any] = json.loads(value)
        if raw.get("state") != "SNAPSHOT_STATE_FROZEN" or uid in self._frozen:
            return
        now = self._history.tick()
        contents = {
            str(one["host_id"]): self._view(str(one["host_id"]), uid)
            for one in raw.get("frozen_on", [])
            if holds_memory(str(one["host_id"]), str(one["boot_id"]))
        }
        first: list[bytes] | None = None
        for host, content in contents.items():
            if content is None:
                if self._had_trouble(host):
                    # It had one when it said so; that it is lost, it says next.
                    continue
                self._violated(f"I-8: {uid} is frozen on {host}, which has no view of it")
                return
            first = first or content
            for extent, found in enumerate(content):
                if found != first[extent]:
                    self._violated(f"I-8: {uid} differs between hosts in extent {extent}")
                for wrong in self._wrong(extent, found, self._asked[uid], now):
                    self._violated(f"I-8: {uid} on {host}: {wrong}")
        if first is not None:
            self._frozen[uid] = (int(raw.get("generation", 0)), first)

    def _wrong(self, extent: int, content: bytes, since: int, until: int) -> list[str]:
        first = extent * EXTENT_BYTES // SECTOR_BYTES
        wrong: list[str] = []
        for sector in range(first, first + len(content) // SECTOR_BYTES):
            if sector in self._history.writes:
                at = (sector - first) * SECTOR_BYTES
                found = content[at : at + SECTOR_BYTES]
                wrong += self._history.wrong(sector * SECTOR_BYTES, found, since, until)
        return wrong

    def look(self, what: str, host: str) -> None:
        """A host that is in sync: its views are what they were, and what has changed is marked."""
        if not self._frozen:
            return
        state = self._state(host)
        for uid, (generation, content) in self._frozen.items():
            if uid in state.get("views", {}):
                view = self._view(host, uid)
                if view is not None and view != content:
                    self._violated(f"I-8: {what}: the view {uid} has changed on {host}")
            self._judge_changed(what, host, generation, content)

    def _judge_changed(self, what: str, host: str, generation: int, content: list[bytes]) -> None:
        disk, marked = self._disk_of(host), 0
        for name in disk.inodes:
            if name.startswith("changed/") and int(name.removeprefix("changed/")) >= generation:
                marked |= int.from_bytes(disk.content(name), "little")
        for extent, old in enumerate(content):
            if not marked >> extent & 1 and self._live(host, extent * EXTENT_BYTES, len(old)) != old:
                self._violated(
                    f"{what}: extent {extent} of {host} has changed since generation {generation}, unmarked"
                )

    def _state(self, host: str) -> dict[str, Any]:
        inode = self._disk_of(host).inodes.get("state.json")
        found: dict[str, Any] = json.loads(bytes(inode.content)) if inode is not None else {}
        return found

    def _view(self, host: str, uid: str) -> list[bytes] | None:
        """Extent by extent; None if the host has no whole view that is recorded."""
        disk = self._disk_of(host)
        if uid not in self._state(host).get("views", {}) or f"frozen/{uid}.copied" not in disk.inodes:
            return None
        copied = int.from_bytes(disk.content(f"frozen/{uid}.copied"), "little")
        missing = int.from_bytes(disk.content(f"frozen/{uid}.missing"), "little")
        data, live = disk.inodes[f"frozen/{uid}.data"], disk.inodes["data"]
        assert isinstance(data, DataInode) and isinstance(live, DataInode)
        found = []
        for offset in range(0, self._size_bytes, EXTENT_BYTES):
            length = min(EXTENT_BYTES, self._size_bytes - offset)
            bit = 1 << (offset // EXTENT_BYTES)
            if copied & bit:
                found.append(bytes(data.content.read(offset, length)))
            elif missing & bit and self._history.has_origin:
                origin = origin_content(self._size_bytes // SECTOR_BYTES)
                found.append(origin[offset : offset + length])
            else:
                found.append(bytes(live.content.read(offset, length)))
        return found
