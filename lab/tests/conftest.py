"""Two guests for the whole run; every test finds them on, thawed, and on a sound network."""

from collections.abc import Iterator

import pytest

from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab


@pytest.fixture(scope="session")
def _booted(lab: Lab) -> tuple[Guest, Guest]:
    storage = lab.define_guest("lab-storage", role="storage", memory_mib=512, disk_gib=4)
    compute = lab.define_guest("lab-compute", role="compute", memory_mib=512)
    lab.boot_guests([storage, compute])
    return storage, compute


@pytest.fixture
def guests(lab: Lab, _booted: tuple[Guest, Guest]) -> Iterator[tuple[Guest, Guest]]:
    for guest in _booted:
        if not guest.running:
            guest.boot()
    yield _booted
    lab.switch.mend_all()
    for guest in _booted:
        if guest.running:
            guest.thaw()


@pytest.fixture
def storage(guests: tuple[Guest, Guest]) -> Guest:
    return guests[0]


@pytest.fixture
def compute(guests: tuple[Guest, Guest]) -> Guest:
    return guests[1]
