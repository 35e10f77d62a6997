"""The switch for real: pings and bytes between guests, with links cut, delayed and mended."""

import re

import pytest

from holdfast.lab.errors import LabError
from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab

pytestmark = pytest.mark.lab


def _answers(guest: Guest, address: str) -> bool:
    """Whether a ping comes back, sooner or later."""
    return not guest.run(["ping", "-c1", "-w30", address], check=False).returncode


def _silent(guest: Guest, address: str) -> bool:
    """Whether each of three pings stays without an answer."""
    output = guest.run(["ping", "-c3", "-i0.2", "-W1", address], check=False).stdout
    return " 0 received" in output


def _heard(place: Guest | Lab) -> int:
    """How many pings have arrived at a guest, or at the host."""
    run = place.run if isinstance(place, Guest) else place.host_run
    lines = run(["grep", "^Icmp:", "/proc/net/snmp"]).stdout.splitlines()
    names, numbers = (line.split() for line in lines)
    return int(numbers[names.index("InEchos")])


def _round_trip_ms(guest: Guest, address: str) -> float:
    output = guest.run(["ping", "-c3", "-i0.2", "-W30", address]).stdout
    found = re.search(r"= ([0-9.]+)/", output)
    assert found
    return float(found[1])


def test_everyone_meets(lab: Lab, storage: Guest, compute: Guest) -> None:
    assert _answers(storage, compute.address)
    assert _answers(storage, lab.address)
    assert lab.host_run(["ping", "-c1", compute.address]).returncode == 0


def test_a_whole_9000_byte_frame_passes(storage: Guest, compute: Guest) -> None:
    # 8972 bytes, 8 of ICMP and 20 of IP make an MTU of 9000; -M do forbids fragments.
    storage.run(["ping", "-c1", "-W30", "-M", "do", "-s", "8972", compute.address])


def test_a_cut_touches_one_link_only(lab: Lab, storage: Guest, compute: Guest) -> None:
    lab.switch.cut(storage.name, compute.name)
    assert _silent(storage, compute.address)
    assert _silent(compute, storage.address)
    assert _answers(storage, lab.address)
    lab.switch.mend(compute.name, storage.name)
    assert _answers(storage, compute.address)


def test_a_one_way_cut_lets_the_other_way_through(lab: Lab, storage: Guest, compute: Guest) -> None:
    assert _answers(storage, compute.address)
    for guest, other in ((storage, compute), (compute, storage)):
        link = guest.run(["ip", "-o", "neigh", "show", other.address]).stdout
        found = re.search(r"lladdr (\S+)", link)
        assert found
        # Known for good, so that a lost ARP answer is not what stops the pings.
        entry = [other.address, "lladdr", found[1], "dev", "vec0", "nud", "permanent"]
        guest.run(["ip", "neigh", "replace", *entry])
    lab.switch.cut(storage.name, compute.name, one_way=True)
    before = _heard(storage), _heard(compute)
    assert _silent(storage, compute.address)
    assert _silent(compute, storage.address)
    assert _heard(storage) == before[0] + 3
    assert _heard(compute) == before[1]


def test_a_one_way_cut_between_a_guest_and_the_host(lab: Lab, storage: Guest, compute: Guest) -> None:
    assert _answers(storage, lab.address)
    link = storage.run(["ip", "-o", "neigh", "show", lab.address]).stdout
    found = re.search(r"lladdr (\S+)", link)
    assert found
    entry = [lab.address, "lladdr", found[1], "dev", "vec0", "nud", "permanent"]
    storage.run(["ip", "neigh", "replace", *entry])
    for cut, heard in (((storage.name, "host"), 0), (("host", storage.name), 3)):
        lab.switch.cut(*cut, one_way=True)
        before = _heard(lab)
        assert _silent(storage, lab.address)
        assert _heard(lab) == before + heard
        lab.switch.mend_all()
    assert _answers(compute, lab.address)


def test_a_delay_is_as_long_as_asked(lab: Lab, storage: Guest, compute: Guest) -> None:
    assert _answers(storage, compute.address)
    lab.switch.delay(storage.name, compute.name, 150)
    assert _round_trip_ms(storage, compute.address) >= 300
    lab.switch.delay(storage.name, compute.name, 0)
    assert lab.switch.status()["faults"] == []
    lab.switch.delay(storage.name, compute.name, 200, one_way=True)
    assert 200 <= _round_trip_ms(compute, storage.address) < 400 + 10_000
    lab.switch.mend_all()
    assert _answers(storage, compute.address)


def test_isolation_and_its_end(lab: Lab, storage: Guest, compute: Guest) -> None:
    lab.switch.isolate(storage.name)
    assert _silent(storage, lab.address)
    assert _silent(compute, storage.address)
    assert _answers(compute, lab.address)
    lab.switch.mend_all()
    assert _answers(compute, storage.address)


def _lost(lab: Lab, guests: tuple[Guest, ...]) -> list[int]:
    """Frames that did not reach them. Others in this lab may be off, and then lose every broadcast."""
    lost = lab.switch.status()["lost_frames"]
    return [lost[guest.name] for guest in guests]


def test_no_frame_is_lost_under_load(lab: Lab, storage: Guest, compute: Guest) -> None:
    before = _lost(lab, (storage, compute))
    listen = f"import socket; s = socket.create_server(('{storage.address}', 5000)); "
    listen += "open('/lab/listening', 'w').close(); c, _ = s.accept(); n = 0\n"
    listen += "while d := c.recv(1 << 20): n += len(d)\nprint(n)"
    server = storage.spawn(["/usr/bin/python3", "-c", listen])
    storage.run(["sh", "-c", "until [ -e /lab/listening ]; do :; done"])
    send = f"import socket; s = socket.create_connection(('{storage.address}', 5000))\n"
    send += "for _ in range(100): s.sendall(bytes(1 << 20))"
    compute.run(["/usr/bin/python3", "-c", send], timeout_s=120)
    assert server.wait(timeout_s=120) == 0
    assert server.output() == f"{100 << 20}\n"
    assert _lost(lab, (storage, compute)) == before


def test_an_unknown_port_is_named(lab: Lab, storage: Guest) -> None:
    with pytest.raises(LabError, match=r"no port 'nobody' .* lab-storage"):
        lab.switch.cut("nobody", storage.name)
