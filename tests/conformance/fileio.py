"""A LUN of LIO's own fileio backstore on a storage host: what the kernel itself makes of the same tests."""

import sys

from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login

_IQN = "iqn.2026-11.io.holdfast.lab:fileio"
_USER, _SECRET = "user-of-fileio", "secret-of-fileio"
_PORT = 3261

# rtslib, which nobody here wrote. With a write cache, and thin, as Holdfast's volumes are.
_MAKE = """
import sys
from rtslib_fb import (FabricModule, FileIOStorageObject, LUN, MappedLUN, NetworkPortal, NodeACL, TPG, Target)
path, size, iqn, address, port, initiator, user, secret = sys.argv[1:]
store = FileIOStorageObject("fileio", path, int(size), write_back=True)
store.set_attribute("emulate_tpu", "1")
store.set_attribute("emulate_tpws", "1")
group = TPG(Target(FabricModule("iscsi"), iqn), 1)
lun = LUN(group, 0, store)
NetworkPortal(group, address, int(port))
group.set_attribute("authentication", "1")
acl = NodeACL(group, initiator)
acl.chap_userid, acl.chap_password = user, secret
MappedLUN(acl, 0, lun)
group.enable = True
"""


def export_fileio(storage: Guest, initiator: str, size_bytes: int) -> Login:
    path = "/var/lib/holdfast/fileio"
    storage.run(["truncate", "-s", str(size_bytes), path])
    words = [path, str(size_bytes), _IQN, storage.address, str(_PORT), initiator, _USER, _SECRET]
    storage.run(["modprobe", "-a", "target_core_file", "iscsi_target_mod"])
    storage.run([sys.executable, "-c", _MAKE, *words])
    return Login(_IQN, f"{storage.address}:{_PORT}", 0, _USER, _SECRET)
