"""How long a user waits for the first byte of a volume from a large snapshot."""

import time
from pathlib import Path
from statistics import median

from images import Image
from world import OWNER, World

from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.errors import HoldfastError
from holdfast.base.limits import GIB, MIB

SIZE_BYTES = 100 * GIB
DATA_BYTES = 256 * MIB
TIMES = 5
LIMIT_S = 60.0


def first_byte(world: World, folder: Path) -> None:
    """Of a 100 GiB snapshot that is mostly holes: from the request for a volume to the bytes at its end."""
    world.start_hosts()
    image = Image(folder / "sparse", SIZE_BYTES).fill(4, compressible=False, length=DATA_BYTES)
    image.write(SIZE_BYTES - MIB, b"last" * (MIB // 4))
    world.snapshot("large", image.freeze())
    waits = sorted(_wait_s(world, f"large-{number}") for number in range(TIMES))
    image.close()
    print(
        f"first byte of a volume from a {SIZE_BYTES // GIB} GiB snapshot, from the request:"
        f" median {median(waits):.2f} s ({waits[0]:.2f} to {waits[-1]:.2f})"
    )


def _wait_s(world: World, name: str) -> float:
    client = world.metadata.client(OWNER)
    began = time.monotonic()
    request = vb.CreateVolumeRequest(volume_id=name, source_snapshot=vb.SnapshotRef(snapshot_id="large"))
    uid = client.volumes.CreateVolume(request).volume.uid
    while True:
        try:
            with world.open_replica(uid) as reader:
                if bytes(reader.read(SIZE_BYTES - 8, 8)) != b"lastlast":
                    raise SystemExit("the volume's last bytes are not the snapshot's")
            break
        except HoldfastError:
            if time.monotonic() - began > LIMIT_S:
                raise
    took_s = time.monotonic() - began
    client.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id=name))
    return took_s
