"""One story of a group, from a seed."""

from random import Random

from group_world import World

from holdfast.api.records.v1 import records_pb2 as r

PENDING, FROZEN = r.SNAPSHOT_GROUP_STATE_PENDING, r.SNAPSHOT_GROUP_STATE_FROZEN
MOMENTS = 60
"""About as many as an attempt has."""


def play(seed: int, faults: int) -> tuple[World, list[str]]:
    """A group is asked for; what goes wrong goes wrong in the middle. Returns what it found."""
    world = World(seed)
    chance = Random(seed)
    for _ in range(faults):
        fault, volume = chance.choice(world.faults), chance.choice(world.volumes)
        world.at_moment[chance.randrange(1, MOMENTS)] = lambda fault=fault, volume=volume: fault(volume)  # type: ignore[misc]
    world.for_s(0.2)
    world.ask()
    world.until(lambda: world.group.state != PENDING)
    found = world.violations() if world.group.state == FROZEN else []
    if world.group.state == FROZEN:
        world.for_s(0.5)
        found += [f"later: {one}" for one in world.violations() if "is 3 on" not in one]
    return world, found
