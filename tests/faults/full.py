"""The last copy's disk is full: what needs room fails with 07/27/07, all else goes on."""

import json
from pathlib import Path

from faults import Scene

from holdfast.lab.disk_faults import fill_disk, free_disk

PROBE = Path(__file__).resolve().with_name("probe.py")
_UNWRITTEN_MIB = 40


def last_copy(scene: Scene) -> None:
    scene.host("mirror").power_off()
    # Before it is left out: no epoch needs room to begin.
    fill_disk(scene.host("primary"))
    scene.volume.await_left_out(scene.mirror)
    scene.io_goes_on()
    _expect(scene, {"write": "ENOSPC", "read": ""})
    # The pulse, whose place is allocated.
    scene.io_goes_on()
    free_disk(scene.host("primary"))
    _expect(scene, {"write": "", "read": ""})
    scene.stage.start_again(scene.mirror)


def _expect(scene: Scene, wanted: dict[str, str]) -> None:
    """Linux says ENOSPC for nothing but DATA PROTECT 27/07."""
    words = ["/usr/bin/python3", str(PROBE), scene.volume.device, str(_UNWRITTEN_MIB << 20)]
    said = json.loads(scene.stage.compute.run(words, timeout_s=120).stdout)
    if said != wanted:
        scene.troubles.append(f"the last copy answered {said}, not {wanted}")
