"""What owners are told of a volume's health, in the place of what operators are (I-10): pure.

Hosts write for operators: which host, which path, which error. An owner is told what it means for them, by
the reason's word alone, so that no sentence of a host can give away more. docs/states/volume.md has every
word; a test holds this table against it.
"""

from holdfast.api.records.v1 import records_pb2 as r

_NO_COPY = (
    "Every good copy of it is away. It starts by itself when one is back; or an operator gives up what no "
    "other copy has."
)
_UNUSABLE = "The copy that should serve it cannot be used; operators are told where and why."
WORDS = {
    "LAST_COPY_AWAY": _NO_COPY,
    "NO_GOOD_COPY": _NO_COPY,
    "WORKER_DOWN": "The process that serves it does not run; operators are told where and why.",
    "WAITING_FOR_ETCD": "One of its copies is out of reach, and that cannot be recorded now.",
    "MIRROR_LOST": "One of its copies is out of reach. If it stays away, another is made.",
    "NEEDS_MIRROR": "One of its copies is away, and it was made to write to two hosts or not at all.",
    "DISK_FAILED": "The disk under its last good copy fails; operators are told where.",
    "NO_SPACE": "The disk under its last good copy takes no more writes; operators are told where.",
    "STORE_ABSENT": _UNUSABLE,
    "STORE_DAMAGED": _UNUSABLE,
    "STORE_UNUSABLE": _UNUSABLE,
    "WRONG_STORE": _UNUSABLE,
    "WRONG_VOLUME": _UNUSABLE,
    "HALF_SYNCED": _UNUSABLE,
    "NOT_WHOLE": _UNUSABLE,
    "STALE_EPOCH": _UNUSABLE,
    "REBUILDING": "One of its copies is being made anew.",
    "LISTENING_FAILED": "Its copies cannot reach each other; operators are told where and why.",
    "RING_FAILED": "It cannot be exported to initiators; operators are told where and why.",
    "EXPORT_TROUBLE": "It cannot be exported to initiators as it should; operators are told where and why.",
    "SYNCING": "One of its copies is being brought up to date.",
    "SYNC_WAITS": "One of its copies is back, and waits for its turn to be brought up to date.",
    "HYDRATING": "It is still being copied from the snapshot that it was made from.",
    "SNAPSHOTTER_UNREACHABLE": "It is still being copied from the snapshot that it was made from, and that "
    "cannot be reached: reads of what is missing wait.",
    "ORIGIN_UNREADABLE": "It is still being copied from the snapshot that it was made from, and that cannot "
    "be read now: reads of what is missing wait.",
    "ORIGIN_LOST": "Some of the snapshot that it was made from is lost, and reads of that fail: write it "
    "anew, or make a volume from another snapshot.",
}
_OTHER = "Operators are told why."
_STATES = {
    r.HEALTH_STATE_DEGRADED: "It can be used.",
    r.HEALTH_STATE_UNAVAILABLE: "I/O waits until it serves again.",
}
NOT_MADE_YET = "Its storage hosts have not made it yet; operators are told why."
NOT_REPAIRED_YET = "Another copy is needed, and is not being made yet; operators are told why."


def health_for_owner(health: r.VolumeHealth) -> r.VolumeHealth:
    """The same, in a sentence that names no host."""
    told = r.VolumeHealth()
    told.CopyFrom(health)
    meaning = _STATES.get(health.state)
    told.message = f"{WORDS.get(health.reason, _OTHER)} {meaning}" if meaning else ""
    return told
