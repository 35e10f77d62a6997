"""Every key, one function per kind. docs/keyspace.md says what each holds and who writes it."""

PREFIX = "/holdfast/v1/"

VOLUMES = PREFIX + "volumes/"
REPLICAS = PREFIX + "replicas/"
SNAPSHOTS = PREFIX + "snapshots/"
HOSTS = PREFIX + "hosts/"
HOST_LEASES = PREFIX + "leases/hosts/"
SNAPSHOTTER_LEASES = PREFIX + "leases/snapshotters/"
CLAIMS = PREFIX + "claims/snapshots/"
CONDEMNED = PREFIX + "condemned/"
VERIFY_CLAIMS = PREFIX + "claims/verify/"
DAMAGED = PREFIX + "damaged/"
COPIES = PREFIX + "copies/"
COPY_CLAIMS = PREFIX + "claims/copies/"
WARDEN = PREFIX + "warden"
SETTINGS = PREFIX + "settings/"
SCHEDULES = PREFIX + "schedules/"
SCHEDULE_RUNS = PREFIX + "schedule_runs/"
DIRECT = PREFIX + "direct/"
SIZES = PREFIX + "sizes/"
REWRITES = PREFIX + "rewrites/"
COLLECTION = PREFIX + "collection"
COLLECTION_CLAIM = PREFIX + "claims/collection"
SNAPSHOT_GROUPS = PREFIX + "snapshot_groups/"


def volume(uid: str) -> str:
    return VOLUMES + uid


def replica(volume_uid: str) -> str:
    return REPLICAS + volume_uid


def attachments(volume_uid: str) -> str:
    """The prefix of a volume's attachments."""
    return f"{PREFIX}attachments/{volume_uid}/"


def attachment(volume_uid: str, uid: str) -> str:
    return attachments(volume_uid) + uid


def snapshot(uid: str) -> str:
    return SNAPSHOTS + uid


def snapshot_group(uid: str) -> str:
    return SNAPSHOT_GROUPS + uid


def gates(group_uid: str) -> str:
    """The prefix of what the volumes of a group say of their gates."""
    return f"{PREFIX}gates/{group_uid}/"


def gate(group_uid: str, volume_uid: str) -> str:
    return gates(group_uid) + volume_uid


def grants(snapshot_uid: str) -> str:
    """The prefix of a snapshot's grants."""
    return f"{PREFIX}grants/{snapshot_uid}/"


def grant(snapshot_uid: str, user: str) -> str:
    return grants(snapshot_uid) + user


def granted_to(user: str) -> str:
    """The prefix of the index of what is granted to `user`."""
    return f"{PREFIX}granted/{user}/"


def granted(user: str, snapshot_uid: str) -> str:
    return granted_to(user) + snapshot_uid


def host(host_id: str) -> str:
    return HOSTS + host_id


def host_lease(host_id: str) -> str:
    return HOST_LEASES + host_id


def snapshotter_lease(snapshotter_id: str) -> str:
    return SNAPSHOTTER_LEASES + snapshotter_id


def directs(owner: str) -> str:
    """The prefix of an owner's snapshots that are being made from outside."""
    return f"{DIRECT}{owner}/"


def direct(owner: str, snapshot_uid: str) -> str:
    """There while the snapshot is being made from outside."""
    return directs(owner) + snapshot_uid


def staged(snapshot_uid: str) -> str:
    """The prefix of what was put for a snapshot that is being made from outside."""
    return f"{PREFIX}staged/{snapshot_uid}/"


def staged_by(snapshot_uid: str, writer: str) -> str:
    return staged(snapshot_uid) + writer


def claim(snapshot_uid: str) -> str:
    return CLAIMS + snapshot_uid


def verify_claim(snapshot_uid: str) -> str:
    """There while the snapshot is verified or repaired, by whoever holds its lease."""
    return VERIFY_CLAIMS + snapshot_uid


def copies(owner: str) -> str:
    """The prefix of an owner's copies of snapshots in other object stores."""
    return f"{COPIES}{owner}/"


def copy(owner: str, uid: str) -> str:
    return copies(owner) + uid


def copy_claim(uid: str) -> str:
    return COPY_CLAIMS + uid


def damaged(snapshot_uid: str) -> str:
    """There when objects that this snapshot wrote are lost."""
    return DAMAGED + snapshot_uid


def condemned(snapshot_uid: str) -> str:
    """There when the objects of a deleted snapshot may be gone at any moment."""
    return CONDEMNED + snapshot_uid


def sizes(snapshot_uid: str) -> str:
    """There when a collection of objects has counted the snapshot."""
    return SIZES + snapshot_uid


def rewrite(writer: str) -> str:
    """There while objects of that writer may be about to be recorded."""
    return REWRITES + writer


def assignments(host_id: str) -> str:
    """The prefix of what one host must hold: all that its agent watches."""
    return f"{PREFIX}assignments/{host_id}/"


def assignment(host_id: str, volume_uid: str) -> str:
    return assignments(host_id) + volume_uid


def schedule(uid: str) -> str:
    return SCHEDULES + uid


def schedule_runs(schedule_uid: str) -> str:
    """The prefix of what a schedule did, by volume."""
    return f"{SCHEDULE_RUNS}{schedule_uid}/"


def schedule_run(schedule_uid: str, volume_id: str) -> str:
    return schedule_runs(schedule_uid) + volume_id


def settings(owner: str) -> str:
    """An owner's; with an empty owner, the cluster's."""
    return SETTINGS + (f"owners/{owner}" if owner else "cluster")


def names(kind: str, owner: str) -> str:
    """The prefix of an owner's ids. Kinds: volumes, snapshots, attachments, schedules, snapshot_groups; and
    recycled, where the id is the uid of a snapshot in the recycle bin.
    """
    return f"{PREFIX}names/{kind}/{owner}/"


def name(kind: str, owner: str, own_id: str) -> str:
    return names(kind, owner) + own_id
