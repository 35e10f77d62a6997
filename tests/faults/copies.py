"""What a copy is worth that is not what the others think it is: compared, made anew, or refused."""

import json
import time

from faults import Fault, Scene, mirror_spoilt
from stage import USER
from volume import Made

FILL_MIB = 96
FILLED = Made(fill_mib=FILL_MIB)
_MIB = 1 << 20
_LITTLE_BYTES = FILL_MIB * _MIB // 3
"""Of a copy that is compared before it is copied, less than this crosses the network."""
_LITTLE_RECEIVED_BYTES = 24 * _MIB
"""What was marked, and what the pulse writes meanwhile."""
_LITTLE_LIMIT_S = 30.0
"""Seconds, on however slow a machine."""
_OLD = "/var/lib/holdfast/old-store"
_DIFFERED = 6


def verify(scene: Scene) -> None:
    """`holdfast volume verify`, with writes going on: finds, repairs, and then finds nothing."""
    mirror_spoilt(scene)
    for wanted in (_DIFFERED, 0):
        words = [*scene.stage.cluster.cli_words(USER), "--output", "json"]
        words += ["volume", "verify", scene.volume.name, "--wait", "--rate", "32MiB"]
        done = scene.stage.lab.host_run(words, check=False, timeout_s=180)
        said = json.loads(done.stdout) if done.stdout.strip() else {}
        found = [int(said.get(name, 0)) for name in ("differing_bytes", "repaired_bytes")]
        if done.returncode != wanted or found[0] != found[1] or bool(found[0]) != bool(wanted):
            scene.troubles.append(f"verify: {done.returncode} {said or done.stderr[-300:]}, wanted {wanted}")


def short_outage(side: str) -> Fault:
    """Off while little is written; then what really crosses the network, and how long it takes."""

    def fault(scene: Scene) -> None:
        host = scene.name(side)
        scene.volume.await_others_clean()
        scene.host(side).power_off()
        scene.io_goes_on()
        scene.host(side).boot()
        before, began_s = scene.stage.received_bytes(host), time.monotonic()
        scene.stage.start_agent(host)
        scene.volume.await_in_sync()
        took_s, received = time.monotonic() - began_s, scene.stage.received_bytes(host) - before
        scene.notes.append(f"in sync {took_s:.1f} s after its agent's start, {received >> 10} KiB received")
        if received > _LITTLE_RECEIVED_BYTES or took_s > _LITTLE_LIMIT_S:
            scene.troubles.append(f"{received} bytes and {took_s:.0f} s for an outage with little written")

    return fault


def bitmap_lost(scene: Scene) -> None:
    """The primary forgets what the mirror lacks."""
    _lose_mirror(scene)
    pid = scene.volume.worker_pid(scene.primary)
    lose = f"rm {scene.volume.store}/absent/{scene.mirror} && kill -KILL {pid}"
    scene.host("primary").run(["sh", "-c", lose])
    scene.stage.start_again(scene.mirror)
    _await_compared(scene)


def other_history(scene: Scene) -> None:
    """The mirror comes back with the store that it had some epochs ago."""
    store = scene.volume.store
    _lose_mirror(scene)
    scene.host("mirror").boot()
    scene.host("mirror").run(["sh", "-c", f"cp -a --sparse=always {store} {_OLD} && sync"], timeout_s=120)
    scene.stage.start_agent(scene.mirror)
    scene.volume.await_in_sync()
    _lose_mirror(scene)
    scene.host("mirror").boot()
    scene.host("mirror").run(["sh", "-c", f"rm -r {store} && mv {_OLD} {store} && sync"], timeout_s=120)
    scene.stage.start_agent(scene.mirror)
    _await_compared(scene)


def new_disk(scene: Scene) -> None:
    """Nothing is compared with nothing: what is allocated is copied."""
    _lose_mirror(scene)
    scene.host("mirror").boot()
    scene.host("mirror").run(["sh", "-c", f"rm -r {scene.volume.store} && sync"])
    scene.stage.start_agent(scene.mirror)
    scene.volume.await_in_sync()
    received = scene.stage.received_bytes(scene.mirror)
    if received < FILL_MIB * _MIB:
        scene.troubles.append(f"the new disk got {received} bytes: less than there are")


def unrelated(scene: Scene) -> None:
    """Another volume's data is in its place: never touched, and the volume says so."""
    volume, store = scene.volume, scene.volume.store
    _lose_mirror(scene)
    mirror = scene.host("mirror")
    mirror.boot()
    other = volume.uid[::-1]
    mirror.run(
        ["sh", "-c", f"cp {store}/state.json /root && sed -i s/{volume.uid}/{other}/ {store}/state.json"]
    )
    before = mirror.run(["md5sum", f"{store}/data"], timeout_s=120).stdout
    scene.stage.start_agent(scene.mirror)
    volume.await_trouble(scene.mirror, "WRONG_STORE")
    scene.io_goes_on()
    if mirror.run(["md5sum", f"{store}/data"], timeout_s=120).stdout != before:
        scene.troubles.append("another volume's data has been written to")
    mirror.run(["sh", "-c", f"cp /root/state.json {store}/state.json && sync"])


def _lose_mirror(scene: Scene) -> None:
    scene.host("mirror").power_off()
    scene.volume.await_left_out(scene.mirror)
    scene.io_goes_on()


def _await_compared(scene: Scene) -> None:
    """In sync again, of which the network saw little: all was compared, and few extents differed."""
    scene.volume.await_in_sync()
    received = scene.stage.received_bytes(scene.mirror)
    if received > _LITTLE_BYTES:
        scene.troubles.append(f"{received} bytes were sent to the mirror: copied, not compared")
    marked = scene.volumes.marked_bytes()
    if marked < FILL_MIB * _MIB:
        scene.troubles.append(f"{marked} bytes were looked at: less than there are")
