"""Power cuts, clean shutdowns, and pauses."""

import subprocess

import pytest

from holdfast.lab.errors import LabError
from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab

pytestmark = pytest.mark.lab

_DATA = "/var/lib/holdfast"


def test_a_power_cut_keeps_what_was_synced_and_nothing_else(lab: Lab, storage: Guest, compute: Guest) -> None:
    write = f"cd {_DATA}; echo kept > synced; sync; echo lost > unsynced; echo {{}} > /etc/mark"
    storage.run(["sh", "-c", write])
    before = storage.boot_id
    storage.power_off()
    assert not storage.running
    storage.power_off()
    storage.boot()
    assert storage.boot_id != before
    assert storage.run(["cat", f"{_DATA}/synced"]).stdout == "kept\n"
    assert storage.run(["ls", f"{_DATA}/unsynced"], check=False).returncode
    assert storage.run(["ls", "/etc/mark"], check=False).returncode
    compute.run(["ping", "-c1", "-W30", storage.address])
    with pytest.raises(LabError, match="already on"):
        storage.boot()


def test_a_shutdown_keeps_everything_on_the_disk(storage: Guest) -> None:
    storage.run(["sh", "-c", f"echo kept > {_DATA}/unsynced-too"])
    storage.spawn(["sleep", "1000"])
    storage.shutdown()
    assert not storage.running
    storage.shutdown()
    storage.boot()
    assert storage.run(["cat", f"{_DATA}/unsynced-too"]).stdout == "kept\n"


def test_a_frozen_guest_does_nothing_until_it_is_thawed(storage: Guest, compute: Guest) -> None:
    before = storage.boot_id
    storage.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        storage.run(["true"], timeout_s=1)
    assert compute.run(["ping", "-c1", "-W1", storage.address], check=False).returncode
    storage.thaw()
    compute.run(["ping", "-c1", "-W30", storage.address])
    assert storage.boot_id == before


def test_a_frozen_guest_can_lose_its_power(storage: Guest) -> None:
    storage.freeze()
    storage.power_off()
    storage.boot()
    assert storage.run(["echo", "up"]).stdout == "up\n"
