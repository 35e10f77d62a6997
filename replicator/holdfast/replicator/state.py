"""`state.json`: the few facts of a replica that are not bits. Replaced whole, durable before they count."""

import json
from dataclasses import asdict, dataclass, field, replace

from holdfast.base.errors import DataLoss

VERSION = 2
NAME = "state.json"


@dataclass(frozen=True)
class ViewState:
    """A frozen view: the generation that its freeze opened, and when (Unix seconds)."""

    generation: int
    freeze_time: float
    counts: bool = False
    """Its freeze was completed here, and may have been told: it is not made again."""


@dataclass(frozen=True)
class State:
    uid: str
    size_bytes: int
    epoch: int
    """The newest epoch that this replica has heard of. An older one is refused."""
    generation: int
    """Writes go to `changed/<generation>`."""
    boot_id: str
    """The boot in which the store was last opened: page cache from before it is gone."""
    origin_snapshot_uid: str = ""
    views: dict[str, ViewState] = field(default_factory=dict)
    lost_views: dict[str, str] = field(default_factory=dict)
    """Views that are no longer good, and why."""
    suspect: str = ""
    """Why this replica is not to be trusted any more (local.py); empty while it is."""
    synced_epoch: int = 0
    """The newest epoch in which this copy was in sync, or the one that the resync under way began from.
    0: it never was, and holds nothing.
    """
    members: tuple[str, ...] = ()
    """The hosts that were in sync in `synced_epoch`."""
    absent: dict[str, int] = field(default_factory=dict)
    """Hosts whose lack is tracked in `absent/<host>`: the epoch in which each was last in sync with us."""
    binding: str = ""
    """A host whose joining was asked for in `epoch`: whether it is in sync by now is not known here, so
    nothing is acknowledged without it until another epoch says.
    """
    leaving: tuple[str, ...] = ()
    """Hosts that the control plane was asked in `epoch` to leave out: whether the record still names them is
    not known here, so what is acknowledged is on this disk until another epoch says.
    """
    consistent: bool = True
    """False while a resync has made part of it new: it is no volume, of any moment."""
    led: bool = False
    """It was the primary in `synced_epoch`: no other host held a lease of its giving."""

    def with_view(self, uid: str, view: ViewState) -> "State":
        return replace(self, views={**self.views, uid: view})

    def without_view(self, uid: str, lost: str = "") -> "State":
        """Forget a view; with `lost`, remember why it is not to be had."""
        views = {key: value for key, value in self.views.items() if key != uid}
        lost_views = {key: value for key, value in self.lost_views.items() if key != uid}
        return replace(self, views=views, lost_views={**lost_views, uid: lost} if lost else lost_views)


def encode(state: State) -> bytes:
    return json.dumps({"version": VERSION, **asdict(state)}, indent=1, sort_keys=True).encode() + b"\n"


def decode(content: bytes) -> State:
    """Raises DataLoss STORE_DAMAGED on anything that `encode` did not write."""
    try:
        raw = json.loads(content)
        if raw.pop("version") != VERSION:
            raise ValueError("unknown version")
        raw["views"] = {uid: ViewState(**view) for uid, view in raw["views"].items()}
        raw["members"] = tuple(raw["members"])
        raw["leaving"] = tuple(raw.get("leaving", ()))
        return State(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataLoss(
            "STORE_DAMAGED", f"{NAME} is not a replica's state ({error}): restore the host's disk or resync."
        ) from error
