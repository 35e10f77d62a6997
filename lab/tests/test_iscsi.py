"""A real target and a real initiator: what every later test of volumes stands on."""

import sys
from collections.abc import Iterator

import pytest

from holdfast.lab.guest import Guest

pytestmark = pytest.mark.lab

_IQN = "iqn.2026-11.io.holdfast.lab:disk"
_SECRET = "twelve-letters"
_EXPORT = """
import sys
from rtslib_fb import (
    LUN, TPG, FabricModule, FileIOStorageObject, MappedLUN, NetworkPortal, NodeACL, Target
)
iqn, address, initiator, secret = sys.argv[1:]
disk = FileIOStorageObject("disk", "/var/lib/holdfast/lun", 64 << 20)
group = TPG(Target(FabricModule("iscsi"), iqn), 1)
group.set_attribute("authentication", "1")
group.set_attribute("generate_node_acls", "0")
group.set_attribute("demo_mode_discovery", "0")
group.enable = True
LUN(group, 0, disk)
NetworkPortal(group, address, 3260)
acl = NodeACL(group, initiator)
acl.chap_userid, acl.chap_password = "user", secret
MappedLUN(acl, 0, 0)
"""


@pytest.fixture
def exported(storage: Guest, compute: Guest) -> Iterator[str]:
    """The portal of a 64 MiB LUN that only `compute` may log in to, with a secret."""
    words = [_IQN, storage.address, compute.initiator, _SECRET]
    storage.run([sys.executable, "-c", _EXPORT, *words])
    yield storage.address
    compute.run(["iscsiadm", "-m", "node", "--logout"], check=False)
    compute.run(["iscsiadm", "-m", "node", "-o", "delete"], check=False)
    clear = "from rtslib_fb import RTSRoot; RTSRoot().clear_existing(confirm=True)"
    storage.run([sys.executable, "-c", clear])


def _node(compute: Guest, portal: str, *words: str, check: bool = True) -> int:
    node = ["iscsiadm", "-m", "node", "-T", _IQN, "-p", portal]
    return compute.run([*node, *words], check=check).returncode


def _set(compute: Guest, portal: str, name: str, value: str) -> None:
    _node(compute, portal, "-o", "update", "-n", f"node.session.auth.{name}", "-v", value)


def test_login_with_the_secret_and_not_without(compute: Guest, exported: str) -> None:
    _node(compute, exported, "-o", "new")
    assert _node(compute, exported, "--login", check=False) == 24, "authorization failure"
    _set(compute, exported, "authmethod", "CHAP")
    _set(compute, exported, "username", "user")
    _set(compute, exported, "password", "not-the-secret")
    assert _node(compute, exported, "--login", check=False) == 24
    _set(compute, exported, "password", _SECRET)
    _node(compute, exported, "--login")
    link = f"/dev/disk/by-path/ip-{exported}:3260-iscsi-{_IQN}-lun-0"
    compute.run(["udevadm", "wait", "--timeout=60", link], timeout_s=90)
    compute.run(["mkfs.ext4", "-q", link])
    compute.run(["sh", "-c", f"mount {link} /mnt && echo bytes > /mnt/file && umount /mnt"])
    assert compute.run(["sh", "-c", f"mount {link} /mnt; cat /mnt/file; umount /mnt"]).stdout == ("bytes\n")


def test_a_stranger_s_discovery_lists_nothing(storage: Guest, compute: Guest, exported: str) -> None:
    discover = ["iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", exported]
    assert _IQN in compute.run(discover).stdout
    # An interface of its own name: iscsid read the guest's name once, when it started.
    interface = ["iscsiadm", "-m", "iface", "-I", "stranger"]
    compute.run([*interface, "-o", "new"])
    name = "iqn.2026-11.io.holdfast.lab:stranger"
    compute.run([*interface, "-o", "update", "-n", "iface.initiatorname", "-v", name])
    found = compute.run([*discover, "-I", "stranger"], check=False)
    assert _IQN not in found.stdout
