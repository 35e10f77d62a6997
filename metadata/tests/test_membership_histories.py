"""Random histories of a volume's membership, over a store that loses answers: invariants after every step.

Hosts reboot, lose their leases and get them back; agents act on what they last read, late or twice; the
control plane replaces, drains and forces; an owner attaches, takes snapshots and deletes.
"""

import contextlib
import random
from collections.abc import Callable
from functools import partial

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError, OutcomeUnknown, StaleEpoch
from holdfast.metadata import (
    attachment_changes,
    attachment_decisions,
    cas,
    keys,
    replica_changes,
    snapshot_changes,
    volume_changes,
    volume_decisions,
)
from holdfast.metadata.testing_cluster import OWNER, VOLUME, Cluster

SEEDS, STEPS = 20, 300
Step = Callable[[], object]


class History(Cluster):
    """Every action is tried; `tried` counts what was done and what was refused, by name."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.tried: dict[str, list[int]] = {}
        self.last: r.ReplicaRecord | None = None
        self.make_volume()

    def attempt(self, name: str, change: Callable[..., bool], *arguments: object) -> None:
        done = self.tried.setdefault(name, [0, 0])
        self.store.lose_answer = self.chance.random() < 0.15
        lost = self.store.lose_answer
        before = self.epoch()
        try:
            changed = self.do(change, *arguments)
        except OutcomeUnknown:
            raise
        except HoldfastError:
            # With a lost answer a refusal may be of what was done: it is found by looking.
            assert lost or self.epoch() == before
            done[1] += 1
            return
        finally:
            self.store.lose_answer = False
        done[0] += changed
        if name in MEMBERSHIP:
            assert changed and self.epoch() == before + 1
            with pytest.raises(StaleEpoch):
                self.do(change, *arguments)

    def epoch(self) -> int:
        return self.replica().epoch if self.store.get(keys.replica(self.uid)) else 0

    def renew(self) -> None:
        """The volume is gone: there is another."""
        self.last = None
        for host_id in self.boots:
            self.come(host_id)
        self.make_volume(available=self.chance.random() < 0.8)

    def epochs_rise(self) -> None:
        replica, last, self.last = self.replica(), self.last, self.replica()
        if last is None:
            return
        assert replica.epoch >= last.epoch
        who = (replica.primary_host_id, list(replica.in_sync), sorted(replica.host_ids))
        if who != (last.primary_host_id, list(last.in_sync), sorted(last.host_ids)):
            assert replica.epoch == last.epoch + 1
        assert list(replica.forced)[: len(last.forced)] == list(last.forced)

    def agents(self) -> list[Step]:
        """What agents may try: in the epoch that they last read, which may be an old one."""
        replica, pick = self.replica(), self.chance.choice
        epoch = max(1, replica.epoch - (self.chance.random() < 0.2))
        primary, some, other = replica.primary_host_id, pick(list(self.boots)), pick(list(replica.host_ids))
        c, to = replica_changes, partial(self.attempt)
        return [
            lambda: to("leave_out", c.leave_out, primary, epoch, [other] if other != primary else []),
            lambda: to("leave_out", c.leave_out, some, epoch, [other]),
            *[lambda: to("join", c.join, primary, epoch, other, self.live(other))] * 6,
            lambda: to("join", c.join, some, epoch, other, self.boot(other)),
            *[lambda: to("take_over", c.take_over, other, self.boot(other), epoch)] * 2,
            lambda: to("take_over", c.take_over, some, f"{some}.1", epoch),
            lambda: to("hand_over", c.hand_over, primary, epoch, other),
            lambda: to("resign", c.resign, primary, epoch, other),
            lambda: to("release", c.release, primary, epoch),
            lambda: to("crash_move", c.crash_move, primary, epoch, self.now_s),
            *[lambda: to("cold_start", c.cold_start, other, self.boot(other), epoch)] * 2,
            lambda: to("renounce", c.renounce, other, epoch),
            lambda: to("path_move", c.path_move, primary, epoch, other, self.now_s),
        ]

    def others(self) -> list[Step]:
        replica, pick = self.replica(), self.chance.choice
        other, some = pick(list(replica.host_ids)), pick(list(self.boots))
        c, to, name = replica_changes, self.attempt, lambda: f"s{self.chance.randrange(3)}"
        return [
            lambda: to("switch", c.request_switch, other),
            *[lambda: to("replace", c.replace, pick([other, other, some, ""]), self.new_replica(some))] * 2,
            lambda: to("drop", c.drop, other),
            lambda: to("stay", c.stay, other),
            *[lambda: to("let_go", c.let_go)] * 2,
            lambda: to("force", c.force_start, other, "root", "All.", self.chance.random() < 0.5, self.now_s),
            lambda: to("removed", volume_changes.store_removed, some),
            lambda: self.user(self.attach),
            lambda: self.user(lambda: self.take_snapshot(name())),
            lambda: self.user(lambda: self.detach()),
            self.upload_fails,
            *[lambda: self.hosts_report()] * 3,
        ]

    def user(self, act: Callable[[], object]) -> None:
        with contextlib.suppress(HoldfastError):
            act()

    def detach(self) -> None:
        cas.run(self.store, lambda draft: attachment_decisions.delete(draft, OWNER, "x"))

    def upload_fails(self) -> None:
        for one in self.all(keys.SNAPSHOTS, r.SnapshotRecord):
            if one.volume_uid == self.uid:
                self.user(
                    lambda uid=one.uid: self.do(lambda draft, _: snapshot_changes.fail(draft, uid, "No."))
                )  # type: ignore[misc]

    def delete(self) -> None:
        self.user(lambda: cas.run(self.store, lambda draft: volume_decisions.delete(draft, OWNER, VOLUME)))

    def hosts_report(self) -> None:
        replica = self.replica()
        own = self.chance.choice(list(replica.host_ids))
        for one in self.all(keys.attachments(self.uid), r.AttachmentRecord):
            self.attempt("path", attachment_changes.path_ready, one.uid, own, self.chance.random() < 0.8)
            if one.state == r.ATTACHMENT_STATE_DETACHING:
                self.attempt(
                    "detached", attachment_changes.detached, one.uid, replica.primary_host_id, replica.epoch
                )
        for one in self.all(keys.SNAPSHOTS, r.SnapshotRecord):
            if one.volume_uid == self.uid and one.state == r.SNAPSHOT_STATE_PENDING:
                on = self.chance.choice([list(replica.host_ids), [own], [replica.leaving_host_id]])
                self.attempt(
                    "frozen",
                    snapshot_changes.frozen,
                    one.uid,
                    replica.primary_host_id,
                    replica.epoch,
                    replica.epoch,
                    2.0,
                    on,
                )
        if self.volume().state == r.VOLUME_STATE_CREATING:
            self.attempt("available", volume_changes.became_available, replica.primary_host_id, replica.epoch)

    def weather(self) -> None:
        self.now_s += self.chance.choice([1, 10, 100])
        host_id = self.chance.choice(list(self.boots))
        self.chance.choice([self.go, *[self.come] * 5, self.reboot])(host_id)

    def views_are_of_members(self) -> None:
        """No host that is out, or rebooted as far as the record knows, vouches for a frozen view."""
        boots = {(one.host_id, one.boot_id) for one in self.replica().in_sync}
        for one in self.all(keys.SNAPSHOTS, r.SnapshotRecord):
            if one.volume_uid == self.uid and one.state == r.SNAPSHOT_STATE_FROZEN:
                assert {(on.host_id, on.boot_id) for on in one.frozen_on} <= boots

    def step(self) -> None:
        if self.store.get(keys.replica(self.uid)) is None:
            self.renew()
        elif self.chance.random() < 0.25:
            self.weather()
        elif self.chance.random() < 0.01:
            self.delete()
        elif self.volume().state == r.VOLUME_STATE_DELETING and self.chance.random() < 0.5:
            self.attempt("removed", volume_changes.store_removed, self.chance.choice(list(self.boots)))
        else:
            pool = self.agents() if self.chance.random() < 0.6 else self.others()
            self.chance.choice(pool)()
        if self.store.get(keys.replica(self.uid)) is not None:
            self.check()
            self.epochs_rise()
            self.views_are_of_members()


MEMBERSHIP = {"leave_out", "join", "take_over", "hand_over", "resign", "cold_start", "renounce"}
EVERYTHING = MEMBERSHIP | {
    "release",
    "path_move",
    "crash_move",
    "switch",
    "replace",
    "drop",
    "stay",
    "force",
    "removed",
}


@pytest.fixture(scope="module")
def seen() -> dict[str, int]:
    return {}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_histories(seed: int, seen: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "PAUSE_MAX_S", 0.0)
    history = History(random.Random(seed))
    for _ in range(STEPS):
        history.step()
    for name, (done, _) in history.tried.items():
        seen[name] = seen.get(name, 0) + done
    if seed == SEEDS - 1:
        assert all(seen.get(name, 0) > 0 for name in EVERYTHING), f"the histories go nowhere: {seen}"
