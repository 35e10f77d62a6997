"""A worker in miniature, for the lab: serves a file as the volume of one TCMU backstore, until it is killed.

Arguments: volume uid, the backstore's directory, the file. The file's mapping is the device, so what it
holds outlives this process, as a replica's store does.
"""

import mmap
import os
import sys

from holdfast.base.loop import Loop
from holdfast.target.executor import RingServer
from holdfast.target.lio_export import uio_name
from holdfast.target.scsi.unit import Unit
from holdfast.target.testing_device import BufferDevice
from holdfast.target.uio import open_uio


def main() -> None:
    uid, configfs, path = sys.argv[1:]
    with open(path, "r+b") as file:
        device = BufferDevice(mmap.mmap(file.fileno(), 0))
    loop = Loop()
    RingServer(loop, open_uio(configfs, uio_name(uid)), device, Unit(uid, device.size_bytes))
    # Whoever waits reads the end of this pipe.
    os.close(os.open(path + ".ready", os.O_WRONLY))
    loop.run()


main()
