"""Who may read what, against records in memory."""

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Unavailable
from holdfast.base.tls import PeerIdentity
from holdfast.metadata import keys
from holdfast.metadata.etcd import Entry
from holdfast.metadata.permissions import MAKE_VOLUMES, READ_BLOCKS, Permission
from holdfast.metadata.records import encode
from holdfast.snapshotter.access import FRESH_S, STALE_S, USER_FRESH_S, Access

UID, OTHER, VOLUME = "1" * 24, "2" * 24, "a" * 24
EXPORT = f"snapshot:{UID}"
HOST = PeerIdentity("host-a", "host")


class Records:
    """etcd, which can be out of reach, and a clock."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.reachable = True
        self.asked = 0
        self.now_s = 1000.0
        self.snapshot(r.SNAPSHOT_STATE_COMPLETED)
        self.assign("host-a", UID)
        self.access = Access(self, lambda: self.now_s)

    def snapshot(self, state: "r.SnapshotState.ValueType") -> None:
        record = r.SnapshotRecord(
            uid=UID, owner="alice", size_bytes=4096, state=state, manifest="m", manifest_sha256="s"
        )
        self.values[keys.snapshot(UID)] = encode(record)

    def grant(self, user: str, permissions: list[Permission]) -> None:
        record = r.GrantRecord(snapshot_uid=UID, owner="alice", user=user, permissions=permissions)
        self.values[keys.grant(UID, user)] = encode(record)

    def assign(self, host_id: str, origin: str) -> None:
        record = r.Assignment(host_id=host_id, volume_uid=VOLUME, origin_snapshot_uid=origin)
        self.values[keys.assignment(host_id, VOLUME)] = encode(record)

    def get(self, key: str) -> Entry | None:
        self._ask()
        return Entry(key, self.values[key], 1, 1, 1, 0) if key in self.values else None

    def range(self, prefix: str, limit: int = 0, start_after: str = "") -> tuple[list[Entry], int]:
        self._ask()
        found = [key for key in sorted(self.values) if key.startswith(prefix)]
        return [Entry(key, self.values[key], 1, 1, 1, 0) for key in found], 1

    def _ask(self) -> None:
        self.asked += 1
        if not self.reachable:
            raise Unavailable("ETCD_UNREACHABLE", "gone")


@pytest.fixture
def records() -> Records:
    return Records()


def test_a_host_reads_the_origin_of_its_volume(records: Records) -> None:
    found = records.access.open(EXPORT, HOST)
    assert (found.snapshot_uid, found.size_bytes, found.manifest, found.manifest_sha256) == (
        UID,
        4096,
        "m",
        "s",
    )


@pytest.mark.parametrize(
    ("export", "peer"),
    [
        (EXPORT, None),
        (EXPORT, PeerIdentity("host-b", "host")),
        (EXPORT, PeerIdentity("host-a", "user")),
        (EXPORT, PeerIdentity("*", "user")),
        (EXPORT, PeerIdentity("host-a", "service")),
        (EXPORT, PeerIdentity("host-a", "")),
        (f"snapshot:{OTHER}", HOST),
        (f"snapshot:{OTHER}", PeerIdentity("x", "operator")),
        (UID, HOST),
        ("snapshot:../../etc", HOST),
        ("", HOST),
    ],
)
def test_whatever_may_not_be_read_does_not_exist(
    records: Records, export: str, peer: PeerIdentity | None
) -> None:
    with pytest.raises(NotFound) as raised:
        records.access.open(export, peer)
    assert raised.value.reason == "NO_SUCH_EXPORT"


def test_an_operator_reads_any(records: Records) -> None:
    assert records.access.open(EXPORT, PeerIdentity("x", "operator")).size_bytes == 4096


def test_an_owner_reads_their_own_while_it_is_there(records: Records) -> None:
    owner = PeerIdentity("alice", "user")
    assert records.access.open(EXPORT, owner).size_bytes == 4096
    with pytest.raises(NotFound):
        records.access.open(EXPORT, PeerIdentity("alice", "service"))
    records.now_s += USER_FRESH_S
    records.snapshot(r.SNAPSHOT_STATE_DELETED)
    with pytest.raises(NotFound):
        records.access.open(EXPORT, owner)
    assert records.access.open(EXPORT, HOST), "a volume made from it goes on"


@pytest.mark.parametrize("grantee", ["bob", "*"])
def test_a_user_reads_what_they_are_granted_to_read(records: Records, grantee: str) -> None:
    bob = PeerIdentity("bob", "user")
    records.grant(grantee, [])
    with pytest.raises(NotFound):
        records.access.open(EXPORT, bob)
    records.grant(grantee, [MAKE_VOLUMES, READ_BLOCKS])
    assert records.access.open(EXPORT, bob).manifest == "m"
    del records.values[keys.grant(UID, grantee)]
    records.now_s += USER_FRESH_S
    with pytest.raises(NotFound):
        records.access.open(EXPORT, bob)


def test_a_uid_elsewhere_in_an_assignment_is_no_origin(records: Records) -> None:
    record = r.Assignment(host_id="host-b", volume_uid=VOLUME)
    record.snapshots.add(uid=UID)
    records.values[keys.assignment("host-b", VOLUME)] = encode(record)
    with pytest.raises(NotFound):
        records.access.open(EXPORT, PeerIdentity("host-b", "host"))


def test_a_snapshot_without_a_manifest_cannot_be_read(records: Records) -> None:
    records.values[keys.snapshot(UID)] = encode(r.SnapshotRecord(uid=UID, state=r.SNAPSHOT_STATE_FROZEN))
    with pytest.raises(NotFound):
        records.access.open(EXPORT, HOST)


def test_answers_are_kept_for_a_little_while(records: Records) -> None:
    records.access.open(EXPORT, HOST)
    asked = records.asked
    records.access.open(EXPORT, HOST)
    assert records.asked == asked
    records.assign("host-a", OTHER)
    records.now_s += FRESH_S
    with pytest.raises(NotFound):
        records.access.open(EXPORT, HOST)


def test_a_refusal_is_not_kept(records: Records) -> None:
    stranger = PeerIdentity("host-b", "host")
    with pytest.raises(NotFound):
        records.access.open(EXPORT, stranger)
    records.assign("host-b", UID)
    assert records.access.open(EXPORT, stranger).manifest == "m"


def test_what_was_allowed_goes_on_while_etcd_is_away(records: Records) -> None:
    records.access.open(EXPORT, HOST)
    records.reachable = False
    records.now_s += FRESH_S + 60
    assert records.access.open(EXPORT, HOST).manifest == "m"
    with pytest.raises(Unavailable):
        records.access.open(EXPORT, PeerIdentity("host-b", "host"))
    records.now_s += STALE_S
    with pytest.raises(Unavailable):
        records.access.open(EXPORT, HOST)
