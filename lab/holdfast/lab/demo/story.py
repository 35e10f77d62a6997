"""The main job, told and checked step by step. Every check raises; nothing here is taken on trust."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from holdfast.lab.cluster import BUCKET, STORAGE_NAMES, Cluster
from holdfast.lab.demo.narrator import Narrator
from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login, discover, log_in, log_out, refused_login
from holdfast.lab.lab import Lab

ALICE, BOB = "alice", "bob"
MIB = 1 << 20


class Failed(Exception):
    """A check of the story did not hold: one sentence says which."""


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


class Story:
    def __init__(self, lab: Lab, narrator: Narrator) -> None:
        self.lab = lab
        self.tell = narrator
        self.cluster = Cluster(lab)
        self.watch_log = lab.folder / "etcd-watch.log"
        self.login: Login | None = None
        self.volume: dict[str, Any] = {}
        self.sums_at_first_snapshot = ""

    def run(self) -> None:
        self.start_everything()
        self.create_and_attach()
        self.write_a_tree()
        self.compare_replicas()
        self.take_two_snapshots()
        self.share_with_bob()
        self.show_the_watch()

    # 1

    def start_everything(self) -> None:
        tell, cluster = self.tell, self.cluster
        with tell.chapter("Start a cluster: etcd, S3, services, and a lab of four hosts"):
            with tell.waiting("booting two storage hosts and two compute hosts (user-mode Linux)"):
                self.lab.up()
                storage = [self.lab.define_guest(n, role="storage", disk_gib=20) for n in STORAGE_NAMES]
                compute = [self.lab.define_guest(f"compute-{u}", role="compute") for u in (ALICE, BOB)]
                self.lab.boot_guests(storage + compute)
            with tell.waiting("making an authority and certificates (holdfast pki)"):
                cluster.make_authority([ALICE, BOB])
            with tell.waiting("starting etcd (TLS, client certificates)"):
                cluster.start_etcd()
                self._start_watch()
            with tell.waiting("starting S3 (Swift with s3api)"):
                cluster.start_s3()
            with tell.waiting("starting the metadata service and the snapshotter"):
                cluster.start_metadata()
                cluster.start_snapshotter()
            with tell.waiting("starting an agent on each storage host"):
                for guest in storage:
                    cluster.start_agent(guest)
                cluster.await_hosts()
            tell.say(self._cli_text("operator", "host", "list"))

    def _start_watch(self) -> None:
        words = self.cluster.etcdctl("watch", "--prefix", "/holdfast/v1/")
        with open(self.watch_log, "wb") as log:
            self.lab.host_popen(
                words, name="etcdctl-watch", stdout=log, stderr=log, env=self.cluster.etcdctl_environment()
            )

    # 2

    def create_and_attach(self) -> None:
        with self.tell.chapter("alice creates a 1 GiB volume and attaches it to her host"):
            with self.tell.waiting("holdfast volume create"):
                self.volume = self.cluster.cli(ALICE, "volume", "create", "photos", "--size", "1GiB")
            words = ["attachment", "create", "photos-1", "--volume", "photos"]
            words += ["--initiator", self._host_of(ALICE).initiator]
            with self.tell.waiting("holdfast attachment create"):
                attachment = self.cluster.cli(ALICE, *words)
            self.login = Login.of(attachment)
            self.tell.say(self._cli_text(ALICE, "attachment", "show", "photos-1"))

    # 3

    def write_a_tree(self) -> None:
        alice, login = self._host_of(ALICE), self._login()
        with self.tell.chapter("alice's host logs in, makes ext4 and copies a tree of files"):
            found = discover(self._host_of(BOB), login.portal)
            check(not found, f"a stranger's discovery lists {found!r}, it must list nothing")
            self.tell.say("a stranger's discovery (compute-bob): nothing listed")
            status = refused_login(self._host_of(BOB), login, with_secret=True)
            self.tell.say(f"another initiator with the right secret: refused (iscsiadm status {status})")
            status = refused_login(alice, login, with_secret=False)
            self.tell.say(f"the right initiator without the secret: refused (iscsiadm status {status})")
            with self.tell.waiting("iscsiadm --login with the secret"):
                device = log_in(alice, login)
            with self.tell.waiting("mkfs.ext4"):
                alice.run(["mkfs.ext4", "-q", device], timeout_s=120)
                self._mount(alice, device)
            with self.tell.waiting("copying thousands of files (this virtual environment) and syncing"):
                self._copy_tree(alice)
            count = alice.run(["sh", "-c", "find /mnt -type f | wc -l"]).stdout.strip()
            check(int(count) > 1000, f"only {count} files were copied")
            self.tell.say(f"{count} files, {self._used_mib(alice)} MiB")

    # 4

    def compare_replicas(self) -> None:
        uid = self.volume["uid"]
        with self.tell.chapter("primary and mirror hold the same bytes (read with nbdcopy, not ours)"):
            alice = self._host_of(ALICE)
            with self.tell.waiting("freezing alice's file system, so that nothing is under way"):
                alice.run(["fsfreeze", "--freeze", "/mnt"], timeout_s=120)
            try:
                images = [self._nbdcopy(name, uid) for name in STORAGE_NAMES]
            finally:
                alice.run(["fsfreeze", "--unfreeze", "/mnt"])
            with self.tell.waiting("cmp of the two images"):
                same = subprocess.run(["cmp", *images], capture_output=True, text=True)
            check(same.returncode == 0, f"the hosts' copies differ: {same.stdout or same.stderr}")
            used = images[0].stat().st_blocks * 512 // MIB
            self.tell.say(f"cmp: {images[0].stat().st_size // MIB} MiB identical ({used} MiB of them data)")
            for image in images:
                image.unlink()

    def _nbdcopy(self, host: str, uid: str) -> Path:
        image = self.lab.disk_folder / f"{host}.copy"
        uri = self.cluster.nbd_uri(host, uid, f"replica:{uid}", self.cluster.nbd_credentials("operator"))
        with self.tell.waiting(f"nbdcopy of {host}'s replica"):
            self.lab.host_run(["nbdcopy", uri, str(image)], timeout_s=300)
        return image

    # 5

    def take_two_snapshots(self) -> None:
        alice = self._host_of(ALICE)
        with self.tell.chapter("alice takes a snapshot, changes a few files, and takes another"):
            alice.run(["sync", "-f", "/mnt"], timeout_s=120)
            self.sums_at_first_snapshot = self._sums(alice)
            first = self._snapshot("monday")
            before = self._bucket()
            self.tell.say(f"S3 holds {len(before)} objects, e.g. {', '.join(sorted(before)[:3])}")
            alice.run(["sh", "-c", "for f in $(find /mnt -name '*.py' | head -5); do echo '# x' >> $f; done"])
            alice.run(["sync", "-f", "/mnt"], timeout_s=120)
            second = self._snapshot("tuesday")
            sizes = [int(one["stored_bytes"]) for one in (first, second)]
            self.tell.say(f"monday stored {sizes[0] / MIB:.1f} MiB (full); tuesday {sizes[1] / MIB:.2f} MiB")
            check(bool(second.get("base_snapshot_uid")), "the second snapshot is not incremental")
            check(0 < sizes[1] < sizes[0] / 4, f"the second snapshot stored {sizes[1]} bytes, not a few")

    def _snapshot(self, name: str) -> dict[str, Any]:
        words = [*self.cluster.cli_words(ALICE), "snapshot", "create", name, "--volume", "photos", "--wait"]
        with self.tell.waiting(f"holdfast snapshot create {name} --wait"):
            said = self.lab.host_run(words, timeout_s=300)
        self.tell.say("\n".join((said.stderr + said.stdout).strip().splitlines()[-8:]))
        snapshot: dict[str, Any] = self.cluster.cli(ALICE, "snapshot", "show", name)
        check(snapshot["state"].endswith("COMPLETED"), f"snapshot {name} is {snapshot['state']}")
        return snapshot

    def _bucket(self) -> set[str]:
        assert self.cluster.swift is not None
        with self.lab.network():
            pages = self.cluster.swift.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            return {item["Key"] for page in pages for item in page.get("Contents", [])}

    # 6

    def share_with_bob(self) -> None:
        create = ["volume", "create", "copy", "--from", f"{ALICE}/monday"]
        with self.tell.chapter("bob gets a volume from alice's first snapshot"):
            said = self.cluster.cli_refused(BOB, *create)
            check("NOT_FOUND" in said, f"bob should be told NOT_FOUND, but: {said}")
            self.tell.say(f"bob, without a grant: {said}")
            self.cluster.cli(ALICE, "grant", "create", "monday", BOB)
            self.tell.say("alice grants it to bob")
            with self.tell.waiting("bob creates the volume and attaches it"):
                volume = self.cluster.cli(BOB, *create)
                words = ["attachment", "create", "copy-1", "--volume", "copy"]
                attachment = self.cluster.cli(BOB, *words, "--initiator", self._host_of(BOB).initiator)
            left = int(volume.get("hydrate_remaining_bytes", 0)) // MIB
            check(left > 0, "bob's volume was not made from the snapshot, but copied before it could be used")
            self.tell.say(f"it can be used now; {left} MiB of it are still in the snapshot alone")
            bob, login = self._host_of(BOB), Login.of(attachment)
            with self.tell.waiting("bob's host logs in and mounts it"):
                self._mount(bob, log_in(bob, login))
            with self.tell.waiting("SHA-256 of every file at bob's"):
                sums = self._sums(bob)
            check(sums == self.sums_at_first_snapshot, "bob's files are not alice's at the first snapshot")
            self.tell.say(
                f"all {len(sums.splitlines())} files equal alice's at the time of the first snapshot"
            )
            self._write_apart(bob)
            self._revoke(volume)
            log_out_of(bob, login)
            log_out_of(self._host_of(ALICE), self._login())

    def _write_apart(self, bob: Guest) -> None:
        alice = self._host_of(ALICE)
        bob.run(["sh", "-c", "echo bob > /mnt/only-bob && sync -f /mnt"], timeout_s=120)
        alice.run(["sh", "-c", "echo alice > /mnt/only-alice && sync -f /mnt"], timeout_s=120)
        for guest, other in ((alice, "only-bob"), (bob, "only-alice")):
            guest.run(["sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"])
            seen = guest.run(["ls", "/mnt"]).stdout.split()
            check(other not in seen, f"{guest.name} sees {other}, which was written to the other volume")
        self.tell.say("writes to one volume do not show in the other")

    def _revoke(self, volume: dict[str, Any]) -> None:
        self.cluster.cli(ALICE, "grant", "delete", "monday", BOB)
        said = self.cluster.cli_refused(BOB, "volume", "create", "again", "--from", f"{ALICE}/monday")
        check("NOT_FOUND" in said, f"after revoking, bob should be told NOT_FOUND, but: {said}")
        bob = self._host_of(BOB)
        bob.run(
            ["sh", "-c", "echo still > /mnt/still-here && sync -f /mnt && cat /mnt/still-here"], timeout_s=120
        )
        with self.tell.waiting("bob's volume fills up in the background"):
            self.cluster.await_record(
                f"volumes/{volume['uid']}", lambda v: int(v.get("hydrate_remaining_bytes", 0)) == 0
            )
        self.tell.say("grant revoked: a further create is refused, the volume already made lives on")

    # 7

    def show_the_watch(self) -> None:
        with self.tell.chapter("what automation saw: etcdctl watch, beside all this"):
            lines = self.watch_log.read_text().splitlines()
            values = [json.loads(line) for line in lines if line.startswith("{")]
            check(bool(values), "etcdctl watch printed no JSON")
            keys = {line.split("/")[3] for line in lines if line.startswith("/holdfast/v1/")}
            wanted = {"volumes", "replicas", "attachments", "snapshots", "grants", "assignments", "hosts"}
            check(wanted <= keys, f"the watch saw no {', '.join(sorted(wanted - keys))}")
            states = [v["state"] for v in values if "snapshot_id" in v and "state" in v]
            self.tell.say(f"{len(values)} JSON values in {self.watch_log}; kinds: {', '.join(sorted(keys))}")
            self.tell.say(f"snapshot states, in order: {' → '.join(dict.fromkeys(states))}")
            self.tell.say(next(line for line in lines if line.startswith("{") and "epoch" in line))

    # Tools

    def _host_of(self, user: str) -> Guest:
        return self.lab.guest(f"compute-{user}")

    def _login(self) -> Login:
        assert self.login is not None
        return self.login

    def _cli_text(self, user: str, *words: str) -> str:
        return self.lab.host_run([*self.cluster.cli_words(user), *words]).stdout

    def _mount(self, guest: Guest, device: str) -> None:
        guest.run(["mkdir", "-p", "/mnt"])
        guest.run(["mount", device, "/mnt"], timeout_s=120)

    def _copy_tree(self, guest: Guest) -> None:
        packages = sysconfig.get_paths()["purelib"]
        # Many files rather than large ones.
        left_out = "--exclude=__pycache__ --exclude=*.so* --exclude=./botocore/data"
        pack = f"tar -C {packages} {left_out} -cf - ."
        guest.run(["sh", "-c", f"{pack} | tar -C /mnt -xf - && sync -f /mnt"], timeout_s=300)

    def _sums(self, guest: Guest) -> str:
        find = "cd /mnt && find . -type f -print0 | sort -z | xargs -0 sha256sum"
        return guest.run(["sh", "-c", find], timeout_s=300).stdout

    def _used_mib(self, guest: Guest) -> int:
        return int(guest.run(["du", "-sm", "/mnt"]).stdout.split()[0])


def log_out_of(guest: Guest, login: Login) -> None:
    guest.run(["umount", "/mnt"], timeout_s=120)
    log_out(guest, login)
