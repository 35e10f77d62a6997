"""Two hosts that export one unit: one map with two paths, and I/O that outlives a host."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.lab import multipath
from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login
from holdfast.lab.lab import Lab

pytestmark = pytest.mark.lab

_IQN = "iqn.2026-11.io.holdfast.lab:shared"
_USER, _SECRET = "user", "twelve-letters"
_EXPORT = Path(__file__).with_name("lab_shared_unit.py")


@pytest.fixture
def hosts(lab: Lab) -> Iterator[list[Guest]]:
    guests = [lab.define_guest(f"lab-way-{n}", role="storage", memory_mib=512, disk_gib=1) for n in (1, 2)]
    lab.boot_guests(guests)
    yield guests
    for guest in guests:
        guest.power_off()


@pytest.fixture
def logins(hosts: list[Guest], compute: Guest) -> list[Login]:
    for tag, guest in enumerate(hosts, 1):
        words = [_IQN, guest.address, str(tag), compute.initiator, _USER, _SECRET]
        guest.run([sys.executable, str(_EXPORT), *words])
    return [Login(_IQN, f"{guest.address}:3260", 0, _USER, _SECRET) for guest in hosts]


def _await_paths(compute: Guest, state: str, count: int) -> None:
    look = f"until [ $(multipathd show paths format %t | grep -cw {state}) -eq {count} ]; do sleep 0.1; done"
    compute.run(["timeout", "60", "sh", "-c", look], timeout_s=70)


def test_io_outlives_a_host_and_its_path_comes_back(
    compute: Guest, hosts: list[Guest], logins: list[Login]
) -> None:
    daemon = multipath.start(compute)
    made = multipath.log_in_all(compute, logins)
    assert re.fullmatch(r"/dev/dm-\d+", made.device)
    assert len(compute.run(["ls", f"/sys/block/{made.device[5:]}/slaves"]).stdout.split()) == 2

    write = "while [ ! -e /tmp/enough ]; do dd if=/dev/zero of=$0 bs=4k count=64 oflag=direct || exit 1; done"
    writer = compute.spawn(["sh", "-c", write, made.device], log_name="writer.log")
    hosts[0].power_off()
    # Only now: these writes begin when the host is already gone.
    compute.run(["dd", "if=/dev/zero", f"of={made.device}", "bs=4k", "count=256", "oflag=direct"])
    assert writer.poll() is None
    _await_paths(compute, "failed", 1)

    hosts[0].boot()
    words = [_IQN, hosts[0].address, "1", compute.initiator, _USER, _SECRET]
    hosts[0].run([sys.executable, str(_EXPORT), *words])
    _await_paths(compute, "active", 2)
    compute.run(["touch", "/tmp/enough"])
    assert writer.wait() == 0, writer.output()

    multipath.log_out_all(compute, logins, made)
    assert compute.run(["dmsetup", "ls", "--target", "multipath"]).stdout.strip() in ("", "No devices found")
    daemon.kill(15)
    daemon.wait()
