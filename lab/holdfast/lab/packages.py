"""Installs the Debian packages that the lab and the tests use: only those that are missing.

No service of theirs is started: a temporary `policy-rc.d` says no to every start and is taken
away afterwards (a package's own state in `/etc` stays as Debian ships it).
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from holdfast.lab.errors import LabError

PACKAGES = (
    "btrfs-progs",
    "busybox-static",
    "dmsetup",
    "e2fsprogs",
    "etcd-client",
    "etcd-server",
    "fio",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libiscsi-bin",
    "libnbd-bin",
    "multipath-tools",
    "open-iscsi",
    "patchelf",
    "procps",
    "python3-libnbd",
    "qemu-utils",
    "sg3-utils",
    "udev",
    "util-linux",
    "xfsprogs",
    "xz-utils",
    "zstd",
)

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_SAVED = Path("/usr/sbin/policy-rc.d.before-holdfast")
_POLICY_TEXT = "#!/bin/sh\n# holdfast-lab: packages being installed must not start services\nexit 101\n"


def missing_packages(names: Sequence[str] = PACKAGES) -> list[str]:
    """Those of `names` that dpkg does not call installed."""
    try:
        listing = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
            capture_output=True,
            text=True,
        ).stdout
    except FileNotFoundError:
        raise LabError("no dpkg-query here: the lab installs itself on Debian only") from None
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def install_packages(say: Callable[[str], None], names: Sequence[str] = PACKAGES) -> bool:
    """Install what is missing of `names`; True if anything was."""
    wanted = missing_packages(names)
    if not wanted:
        return False
    if os.geteuid() != 0:
        raise LabError(f"missing Debian packages: {' '.join(wanted)}; install them, or run as root")
    say(f"installing {len(wanted)} Debian packages: {' '.join(wanted)}")
    with _no_services():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *wanted)
    still = missing_packages(names)
    if still:
        raise LabError(f"apt-get succeeded, but these are still not installed: {' '.join(still)}")
    return True


def _apt_get(*words: str) -> None:
    done = subprocess.run(
        ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise LabError(
            f"apt-get {words[0]} failed with {done.returncode}; run it by hand to see why:\n{tail}"
        )


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    _restore_policy()
    if _POLICY.exists():
        _POLICY.rename(_POLICY_SAVED)
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _restore_policy()


def _restore_policy() -> None:
    """Undo `_no_services`, also after an install that was killed."""
    if _POLICY.exists() and _POLICY.read_text(errors="replace") == _POLICY_TEXT:
        _POLICY.unlink()
    if _POLICY_SAVED.exists():
        _POLICY_SAVED.rename(_POLICY)
