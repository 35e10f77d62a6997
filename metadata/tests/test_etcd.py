"""The etcd client against real servers that are killed, stopped and compacted under it."""

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import OutcomeUnknown, Unavailable
from holdfast.base.ids import new_uid
from holdfast.lab.etcd import EtcdServer, Tls
from holdfast.lab.servers import LocalHost
from holdfast.metadata import keys, pki
from holdfast.metadata.claimable import Claimable
from holdfast.metadata.etcd import Compacted, Entry, Etcd, Event, LeaseGone, absent, delete, put, unchanged
from holdfast.metadata.follow import follow
from holdfast.metadata.lease import LeaseKeeper
from holdfast.metadata.records import encode
from holdfast.metadata.testing import clear, low_port

P = "/holdfast/v1/test/"


@pytest.fixture
def own_server(local_host: LocalHost) -> Iterator[EtcdServer]:
    """An etcd of this test's own, to be ill-treated."""
    with EtcdServer(local_host, local_host.folder / f"etcd-{new_uid()}", port=low_port()) as server:
        yield server


@pytest.fixture
def client(own_server: EtcdServer) -> Iterator[Etcd]:
    made = Etcd([own_server.endpoint])
    yield made
    made.close()


def set_to(etcd: Etcd, key: str, value: int) -> None:
    """Write, however often etcd dies meanwhile: a compare-and-swap that looks before it tries again."""
    while True:
        try:
            entry = etcd.get(key)
            if entry is not None and entry.value == b"%d" % value:
                return
            etcd.transact([unchanged(entry) if entry else absent(key)], [put(key, b"%d" % value)])
        except Unavailable:
            continue


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_watch_over_sigkill_loses_and_repeats_nothing(own_server: EtcdServer, client: Etcd) -> None:
    count, kills = 300, 3
    seen: list[Event] = []
    written = threading.Semaphore(0)

    def write() -> None:
        for number in range(count):
            set_to(client, P + "counter", number)
            written.release()

    def kill() -> None:
        for _ in range(kills):
            for _ in range(count // (kills + 1)):
                written.acquire()
            own_server.kill()
            own_server.start()

    threads = [in_thread(write), in_thread(kill)]
    watcher = Etcd([own_server.endpoint])
    stop = threading.Event()
    for events in watcher.watch(P, 1, stop):
        seen += events
        if seen[-1].entry is not None and seen[-1].entry.value == b"%d" % (count - 1):
            break
    for thread in threads:
        thread.join()
    watcher.close()
    values = [int(event.entry.value) for event in seen if event.entry]
    assert values == list(range(count))
    revisions = [event.revision for event in seen]
    assert all(one < other for one, other in itertools.pairwise(revisions))


def test_transactions_while_etcd_is_killed(own_server: EtcdServer, client: Etcd) -> None:
    """Counting by compare-and-swap, with etcd killed in the middle, counts each success exactly once.

    An outcome that was called unknown may be either; none that was called failed had happened.
    """
    succeeded, unknown = 0, 0
    stop = threading.Event()
    begun = threading.Event()

    def kill() -> None:
        begun.wait()
        for _ in range(3):
            own_server.kill()
            own_server.start()
        stop.set()

    killer = in_thread(kill)
    while not stop.is_set():
        begun.set()
        try:
            entry = client.get(P + "count")
            value = int(entry.value) if entry else 0
            compare = unchanged(entry) if entry else absent(P + "count")
            succeeded += client.transact([compare], [put(P + "count", b"%d" % (value + 1))]).succeeded
        except OutcomeUnknown:
            unknown += 1
        except Unavailable:
            continue
    killer.join()
    entry = client.get(P + "count")
    assert entry is not None
    assert succeeded <= int(entry.value) <= succeeded + unknown
    assert succeeded > 0


def test_a_hung_server_makes_the_outcome_unknown(own_server: EtcdServer) -> None:
    etcd = Etcd([own_server.endpoint], timeout_s=0.5)
    assert etcd.transact([], [put(P + "x", b"1")]).succeeded
    own_server.signal(SIGSTOP)
    try:
        with pytest.raises(OutcomeUnknown):
            # It stops a little after the signal was sent, and may answer until then.
            for _ in range(100):
                etcd.transact([], [put(P + "x", b"2")])
        with pytest.raises(Unavailable) as raised:
            etcd.get(P + "x")
        assert raised.value.reason == "ETCD_UNREACHABLE"
    finally:
        own_server.signal(SIGCONT)
    # What was called unknown may well have happened.
    entry = Etcd([own_server.endpoint]).get(P + "x")
    assert entry is not None and entry.value in (b"1", b"2")
    etcd.close()


def test_nothing_listens() -> None:
    etcd = Etcd(["127.0.0.1:1"], timeout_s=0.3)
    started_s = time.monotonic()
    for call in (lambda: etcd.get("k"), lambda: etcd.transact([], []), lambda: etcd.grant_lease(5)):
        with pytest.raises(Unavailable) as raised:
            call()
        assert raised.value.reason == "ETCD_UNREACHABLE"
        assert not isinstance(raised.value, OutcomeUnknown), "it was certainly not sent"
    assert time.monotonic() - started_s < 3
    etcd.close()


def test_other_endpoints_are_used(etcd: Etcd, etcd_server: EtcdServer) -> None:
    several = Etcd(["127.0.0.1:1", f"http://{etcd_server.endpoint}", "127.0.0.1:2"])
    assert several.transact([], [put(P + "x", b"1")]).succeeded
    stop = threading.Event()
    (event,) = next(several.watch(P, 1, stop))
    assert event.key == P + "x"
    assert several.keep_alive(several.grant_lease(10)) == 10
    several.close()


def test_watch_stops(etcd: Etcd) -> None:
    stop = threading.Event()
    thread = in_thread(lambda: list(etcd.watch(P, 0, stop)) and None)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_one_transaction_is_one_list(etcd: Etcd) -> None:
    revision = etcd.transact([], [put(P + str(number), b"") for number in range(100)]).revision
    etcd.transact([], [delete(P + "1"), put(P + "2", b"new")])
    watch = etcd.watch(P, revision, threading.Event())
    seen = next(watch)
    while len(seen) < 102:
        seen += next(watch)
    assert len(seen) == 102
    last = {event.key: event.entry for event in seen if event.revision == revision + 1}
    assert last[P + "1"] is None and last[P + "2"] is not None


def test_large_ranges_are_whole(etcd: Etcd) -> None:
    count = 2_300
    for start in range(0, count, 100):
        etcd.transact([], [put(f"{P}{number:05}", b"v") for number in range(start, start + 100)])
    entries, revision = etcd.range(P)
    assert [one.key for one in entries] == [f"{P}{number:05}" for number in range(count)]
    assert max(one.mod_revision for one in entries) == revision
    assert etcd.count(P) == count
    assert len(etcd.range(P, limit=1_500)[0]) == 1_500
    found = etcd.get_many([f"{P}{number:05}" for number in (3, 2_299, 99_999)])
    assert [one.key if one else None for one in found] == [P + "00003", P + "02299", None]


def test_compacted(etcd: Etcd) -> None:
    for number in range(5):
        set_to(etcd, P + "x", number)
    etcd.compact(etcd.range(P)[1])
    with pytest.raises(Compacted):
        next(etcd.watch(P, 1, threading.Event()))


def test_follow_bridges_a_compaction(own_server: EtcdServer, client: Etcd) -> None:
    """While the follower is cut off its history is discarded: it gets the difference, deletions too."""
    for name in ("kept", "changed", "deleted"):
        client.transact([], [put(P + name, b"1")])
    stop = threading.Event()
    follower = follow(client, P, stop)
    assert {event.key for event in next(follower)} == {P + name for name in ("kept", "changed", "deleted")}
    own_server.kill()
    own_server.start()
    client.transact([], [put(P + "changed", b"2"), delete(P + "deleted"), put(P + "new", b"1")])
    client.compact(client.range(P)[1])
    changes: dict[str, bytes | None] = {}
    while len(changes) < 3:
        for event in next(follower):
            changes[event.key.removeprefix(P)] = event.entry.value if event.entry else None
    assert changes == {"changed": b"2", "deleted": None, "new": b"1"}


def test_follow_outlives_refusals(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at a thread that has ended: the process would go on, and see nothing any more."""
    etcd.transact([], [put(P + "a", b"1")])
    real_range, real_watch = etcd.range, etcd.watch
    refusals: dict[str, list[Exception]] = {
        "range": [Compacted(7), Unavailable("ETCD_REFUSED", "no")],
        "watch": [Unavailable("ETCD_REFUSED", "no"), Compacted(7)],
    }

    def range_(prefix: str) -> tuple[list[Entry], int]:
        if refusals["range"]:
            raise refusals["range"].pop()
        return real_range(prefix)

    def watch(prefix: str, revision: int, stop: threading.Event) -> Iterator[list[Event]]:
        if refusals["watch"]:
            etcd.transact([], [put(P + f"missed{len(refusals['watch'])}", b"1")])
            raise refusals["watch"].pop()
        return real_watch(prefix, revision, stop)

    monkeypatch.setattr(etcd, "range", range_)
    monkeypatch.setattr(etcd, "watch", watch)
    follower = follow(etcd, P, threading.Event())
    seen = [[event.key.removeprefix(P) for event in next(follower)] for _ in range(3)]
    assert seen == [["a"], ["missed2"], ["missed1"]]
    etcd.transact([], [put(P + "b", b"1")])
    assert [event.key for event in next(follower)] == [P + "b"]


def test_a_record_that_cannot_be_read_holds_up_no_other(etcd: Etcd) -> None:
    stop = threading.Event()
    frozen = encode(r.SnapshotRecord(state=r.SNAPSHOT_STATE_FROZEN))
    etcd.transact([], [put(keys.snapshot("0" * 24), b"{broken"), put(keys.snapshot("1" * 24), frozen)])
    claimable = Claimable(etcd, stop)
    try:
        assert claimable.wait(10) == ["1" * 24]
        etcd.transact([], [delete(keys.snapshot("1" * 24)), put(keys.snapshot("2" * 24), frozen)])
        while claimable.wait(10) == ["1" * 24]:
            pass
        assert claimable.wait(10) == ["2" * 24]
    finally:
        stop.set()
        clear(etcd)


def test_lease_is_kept_lost_and_taken_anew(etcd: Etcd) -> None:
    attached: list[int] = []
    lost = threading.Event()
    again = threading.Event()

    def attach(lease_id: int) -> None:
        attached.append(lease_id)
        etcd.transact([], [put(P + "me", b"", lease_id)])
        if len(attached) == 2:
            again.set()

    keeper = LeaseKeeper(etcd, 3, attach, on_lost=lost.set)
    keeper.start()
    assert keeper.wait_attached(10) and keeper.lease_id == attached[0]
    assert keeper.renewed_ago_s() < 3
    etcd.revoke_lease(attached[0])
    assert lost.wait(10) and again.wait(10)
    entry = etcd.get(P + "me")
    assert entry is not None and entry.lease_id == attached[1]
    keeper.stop()
    assert etcd.get(P + "me") is None, "stopping gives the lease back"


def test_a_lease_outlives_an_attachment_that_fails(etcd: Etcd) -> None:
    """E.g. the host's disk cannot be asked for its size now."""
    troubles = [OSError(5, "Input/output error"), Unavailable("ETCD_REFUSED", "no")]

    def attach(_lease_id: int) -> None:
        if troubles:
            raise troubles.pop()

    keeper = LeaseKeeper(etcd, 10, attach)
    keeper.start()
    assert keeper.wait_attached(10)
    keeper.stop()


def test_an_etcd_that_wants_to_know_who_asks_is_unavailable(own_server: EtcdServer, client: Etcd) -> None:
    """Not a defect: whoever asks again later is answered when it has been put right."""
    for words in (
        ["user", "add", "root", "--new-user-password=x"],
        ["user", "grant-role", "root", "root"],
        ["auth", "enable"],
    ):
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        command = ["etcdctl", "--endpoints", own_server.url, *words]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    with pytest.raises(Unavailable) as refused:
        client.range(P)
    assert refused.value.reason == "ETCD_REFUSED"


def test_lease_is_adopted(etcd: Etcd) -> None:
    first = LeaseKeeper(etcd, 10, lambda lease_id: None)
    first.start()
    assert first.wait_attached(10)
    lease_id = first.lease_id
    first.stop(revoke=False)
    second = LeaseKeeper(etcd, 10, lambda _: None, adopt_lease_id=lease_id)
    second.start()
    assert second.wait_attached(10) and second.lease_id == lease_id
    second.stop()
    third = LeaseKeeper(etcd, 10, lambda _: None, adopt_lease_id=lease_id)
    third.start()
    assert third.wait_attached(10) and third.lease_id not in (0, lease_id), "it was gone: another is taken"
    third.stop()


def test_dead_leases(etcd: Etcd) -> None:
    lease_id = etcd.grant_lease(10)
    etcd.revoke_lease(lease_id)
    etcd.revoke_lease(lease_id)
    with pytest.raises(LeaseGone):
        etcd.keep_alive(lease_id)
    with pytest.raises(LeaseGone):
        etcd.transact([], [put(P + "x", b"", lease_id)])


def test_three_members_killed_in_turn(local_host: LocalHost) -> None:
    """Not a cluster: three servers would disagree. What is shown is that calls move on at each death."""
    servers = [
        EtcdServer(local_host, local_host.folder / f"etcd-{new_uid()}", port=low_port()).start()
        for _ in range(3)
    ]
    etcd = Etcd([server.endpoint for server in servers])
    for server in servers[:-1]:
        assert etcd.transact([], [put(P + "x", b"")]).succeeded
        server.kill()
        etcd.get(P + "x")
    assert etcd.transact([], [put(P + "x", b"")]).succeeded
    etcd.close()
    servers[-1].kill()


def test_etcd_over_tls(local_host: LocalHost, tmp_path: Path) -> None:
    """With certificates of the authority it works; without, nothing is answered."""
    pki.init(tmp_path)
    pki.issue(tmp_path, "service", "etcd", ["127.0.0.1"])
    pki.issue(tmp_path, "service", "metadata", ["127.0.0.1"])
    server_files = pki.Identity(tmp_path, "etcd").tls
    tls = Tls(server_files.certificate, server_files.key, server_files.ca)
    with EtcdServer(local_host, local_host.folder / f"etcd-{new_uid()}", port=low_port(), tls=tls) as server:
        etcd = Etcd([server.url], pki.Identity(tmp_path, "metadata").tls)
        assert etcd.transact([absent(P + "x")], [put(P + "x", b"1")]).succeeded
        assert next(etcd.watch(P, 1, threading.Event()))[0].key == P + "x"
        etcd.close()
        clear = Etcd([server.endpoint], timeout_s=0.5)
        with pytest.raises(Unavailable):
            clear.get(P + "x")
        clear.close()
