"""Exports a file as one unit that two storage guests call by the same name. LIO's own; runs in a guest.

Arguments: iqn, this host's address, portal group tag, initiator, user, secret.
"""

import sys

from rtslib_fb import LUN, TPG, FabricModule, FileIOStorageObject, MappedLUN, NetworkPortal, NodeACL, Target

_SIZE_BYTES = 64 << 20
_SERIAL = "0123456789abcdef0123456789abcdef"


def main() -> None:
    iqn, address, tag, initiator, user, secret = sys.argv[1:]
    disk = FileIOStorageObject("shared", "/var/lib/holdfast/shared", _SIZE_BYTES, wwn=_SERIAL)
    group = TPG(Target(FabricModule("iscsi"), iqn), int(tag))
    for name, value in {"authentication": 1, "generate_node_acls": 0, "demo_mode_discovery": 0}.items():
        group.set_attribute(name, str(value))
    group.enable = True
    LUN(group, 0, disk)
    NetworkPortal(group, address, 3260)
    acl = NodeACL(group, initiator)
    acl.chap_userid, acl.chap_password = user, secret
    MappedLUN(acl, 0, 0)


main()
