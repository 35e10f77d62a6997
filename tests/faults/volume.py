"""The volume under test: attached by all its paths, its record, and whether its replicas are equal."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alua
from stage import USER, Stage

from holdfast.lab import multipath
from holdfast.lab.cluster import STORE_DIR
from holdfast.lab.initiator import Login

SIZE_MIB = 128
FILL_AT_MIB = 96
"""Where the pulse is, and from there on."""
IN_SYNC_LIMIT_S = 120.0
_COMPARE_ATTEMPTS = 5
_HEALTHY = "HEALTH_STATE_HEALTHY"


class Stuck(Exception):
    """What had to happen did not, in the time that it had."""


@dataclass(frozen=True)
class Made:
    """How a volume is made, and how much of it is written, from FILL_AT_MIB on, before anything begins."""

    size_mib: int = SIZE_MIB * 2
    fill_mib: int = 0
    words: tuple[str, ...] = ()


class Volume:
    """Made, attached and logged in to by the compute host."""

    def __init__(self, stage: Stage, name: str, made: Made = Made(SIZE_MIB)) -> None:
        self.stage = stage
        self.cluster = stage.cluster
        self.name = name
        size = f"{made.size_mib}MiB"
        volume = self.cluster.cli(USER, "volume", "create", name, "--size", size, *made.words)
        self.uid: str = volume["uid"]
        self.store = f"{STORE_DIR}/{self.uid}"
        self.attach()
        if made.fill_mib:
            self._fill(made.fill_mib)

    def attach(self) -> None:
        """And log in by all paths."""
        compute = self.stage.compute
        words = ["attachment", "create", self.name, "--volume", self.name, "--initiator", compute.initiator]
        attachment = self.cluster.cli(USER, *words)
        self.logins = Login.of_all(attachment)
        self._await_exports(attachment["uid"])
        self.map = multipath.log_in_all(compute, self.logins)
        self.device = self.map.device
        if trouble := self.alua_trouble():
            raise Stuck(trouble)

    def remove(self) -> None:
        """Log out, detach and delete."""
        multipath.log_out_all(self.stage.compute, self.logins, self.map)
        self.cluster.cli(USER, "attachment", "delete", self.name)
        self.cluster.cli(USER, "volume", "delete", self.name)

    def alua_trouble(self) -> str:
        """Whether every path says the same of the target port groups: "" or what it is."""
        return alua.await_agreement(self.stage, self.map, len(self.logins))

    def _fill(self, count_mib: int) -> None:
        """Random bytes, on both disks, and nothing of them in `intent` any more."""
        words = ["dd", "if=/dev/urandom", f"of={self.device}", "bs=1M", f"seek={FILL_AT_MIB}"]
        words += [f"count={count_mib}", "oflag=direct", "conv=fsync"]
        self.stage.compute.run(words, timeout_s=300)
        self._await_no_intent(f"{self.store}/intent")

    def await_others_clean(self) -> None:
        """Nothing of other volumes on these hosts would have to be copied after a loss of power."""
        self._await_no_intent(f"$(ls {STORE_DIR}/*/intent | grep -v {self.uid})")

    def _await_no_intent(self, files: str) -> None:
        clean = f"until [ -z \"$(cat /dev/null {files} | tr -d '\\0' | head -c 1)\" ]; do sleep 0.2; done"
        for host in self.roles():
            self.stage.guest(host).run(["timeout", "90", "sh", "-c", clean], timeout_s=120)

    def _await_exports(self, attachment_uid: str) -> None:
        """The mirror's path may be there a little later than the primary's."""
        hosts = len(self.logins)
        if hosts > 1:
            key = f"attachments/{self.uid}/{attachment_uid}"
            self.cluster.await_record(key, lambda one: len(one.get("ready_host_ids", [])) >= hosts)

    def replica(self) -> dict[str, Any]:
        record: dict[str, Any] = self.cluster.record(f"replicas/{self.uid}")
        return record

    def roles(self) -> tuple[str, str]:
        """Primary and mirror, as the record says it now."""
        record = self.replica()
        primary = record["primary_host_id"]
        (mirror,) = (one["host_id"] for one in record["in_sync"] if one["host_id"] != primary)
        return primary, mirror

    def await_in_sync(self, limit_s: float = IN_SYNC_LIMIT_S) -> None:
        """Two hosts hold the same again, as they run now, and the volume says that all is well."""
        # A host that has just been rebooted may still be in the record, by the boot that it was.
        guests = [self.stage.guest(name) for name in self.stage.storage_names]
        boots = {guest.name: guest.boot_id for guest in guests if guest.running}

        def holds(record: dict[str, Any]) -> bool:
            members = record.get("in_sync", [])
            return len(members) >= 2 and all(one["boot_id"] == boots.get(one["host_id"]) for one in members)

        self.cluster.await_record(f"replicas/{self.uid}", holds, limit_s)
        self.cluster.await_record(
            f"volumes/{self.uid}", lambda v: v.get("health", {}).get("state") == _HEALTHY, limit_s
        )

    def health(self) -> str:
        """State and message, as its record has them."""
        health = (self.cluster.record(f"volumes/{self.uid}") or {}).get("health", {})
        return f"{health.get('state')}: {health.get('message', '')}".strip(": ")

    def await_replica(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        self.cluster.await_record(f"replicas/{self.uid}", holds, IN_SYNC_LIMIT_S)

    def await_health(self, reason: str) -> None:
        key = f"volumes/{self.uid}"
        self.cluster.await_record(
            key, lambda one: one.get("health", {}).get("reason") == reason, IN_SYNC_LIMIT_S
        )

    def await_left_out(self, host: str, limit_s: float = IN_SYNC_LIMIT_S) -> None:
        """The host is not in the set any more."""

        def is_out(record: dict[str, Any]) -> bool:
            return all(one["host_id"] != host for one in record.get("in_sync", []))

        self.cluster.await_record(f"replicas/{self.uid}", is_out, limit_s)

    def await_trouble(self, host: str, reason: str) -> None:
        """The volume says why that host cannot be brought up to date."""

        def says(record: dict[str, Any]) -> bool:
            return any(
                (one["host_id"], one["reason"]) == (host, reason)
                for one in record.get("replica_troubles", [])
            )

        self.cluster.await_record(f"volumes/{self.uid}", says, IN_SYNC_LIMIT_S)

    def await_writes(self, count: int, limit_s: float) -> None:
        """So many more writes to the device have ended than when this was called."""
        writes = f"$(awk '{{print $5}}' /sys/block/{Path(self.device).name}/stat)"
        wait = f"end=$(({writes} + {count})); until [ {writes} -ge $end ]; do sleep 0.05; done"
        words = ["timeout", str(limit_s), "sh", "-c", wait]
        if self.stage.compute.run(words, timeout_s=limit_s + 30, check=False).returncode:
            raise Stuck(f"I/O did not go on within {limit_s:g} s; the volume says {self.health()}")

    def worker_pid(self, host: str) -> str:
        record = self.stage.guest(host).run(["cat", f"/run/holdfast/{self.uid}.pid"])
        return str(json.loads(record.stdout)["pid"])

    def flush(self) -> None:
        """What was written is on the disks of all that are in sync."""
        sync = "import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))"
        self.stage.compute.run(["/usr/bin/python3", "-c", sync, self.device], timeout_s=120)

    def discard_all(self) -> None:
        """Give every block back, so that the next writes need room."""
        self.stage.compute.run(["blkdiscard", "-f", self.device], timeout_s=120)

    def differing_bytes(self) -> int:
        """Read both replicas with nbdcopy and compare. Nothing may be writing."""
        for _ in range(_COMPARE_ATTEMPTS):
            self.await_in_sync()
            self.stage.compute.run(["blockdev", "--flushbufs", self.device], timeout_s=120)
            before = self.replica()
            differing = self._compare([one["host_id"] for one in before["in_sync"]])
            # Only while these two were the set, they had to be equal.
            if self.replica()["epoch"] == before["epoch"]:
                return differing
        raise RuntimeError("the replicas could not be compared: their set went on changing")

    def _compare(self, hosts: list[str]) -> int:
        images = [self._copy(host) for host in hosts[:2]]
        try:
            done = subprocess.run(["cmp", "-l", *images], capture_output=True)
            if done.returncode > 1:
                raise RuntimeError(f"cmp could not compare: {done.stderr.decode()}")
            return done.stdout.count(b"\n")
        finally:
            for image in images:
                image.unlink()

    def _copy(self, host: str) -> Path:
        image = self.stage.lab.disk_folder / f"{host}.copy"
        credentials = self.cluster.nbd_credentials("operator")
        uri = self.cluster.nbd_uri(host, self.uid, f"replica:{self.uid}", credentials)
        self.stage.lab.host_run(["nbdcopy", uri, str(image)], timeout_s=180)
        return image
