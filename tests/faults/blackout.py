"""Cases in which every copy loses its power: judged by what had been flushed before."""

import random
import time
from collections.abc import Callable
from pathlib import Path

from faults import GO_ON_LIMIT_S
from outcome import Outcome
from stage import Stage
from volume import Volume

_MIB = 1 << 20
_REGION_MIB = 64
_FLUSHES_BEFORE = 20
_BLOCK_BYTES = 4096
_BEGIN_LIMIT_S = 60
_END_LIMIT_S = 300.0
WRITER = Path(__file__).resolve().with_name("flushed.py")


class FlushedWriter:
    """Writes and flushes in the compute guest; `flushed` is what it has noted."""

    def __init__(self, volume: Volume, label: str) -> None:
        self.volume = volume
        self.guest = volume.stage.compute
        self.run = random.getrandbits(48)
        self.notes = self.guest.folder / f"flushed-{label}"
        inside = f"{self.guest.shared_dir}/{self.notes.name}"
        words = ["/usr/bin/python3", str(WRITER), "write", volume.device, "0", str(_REGION_MIB * _MIB)]
        self.process = self.guest.spawn([*words, str(self.run), inside], log_name=f"flushed-{label}.log")
        look = f"until [ $(wc -l < {inside}) -ge {_FLUSHES_BEFORE} ]; do sleep 0.05; done"
        self.guest.run(["timeout", str(_BEGIN_LIMIT_S), "sh", "-c", look], timeout_s=_BEGIN_LIMIT_S + 30)

    def flushed(self) -> int:
        """How many blocks have certainly been flushed by now."""
        lines = self.notes.read_text().split("\n")[:-1]
        return int(lines[-1])

    def wrong_bytes(self, count: int) -> int:
        """End the writer; of the first `count` blocks, what is not as it was flushed."""
        self.process.kill(15)
        self.process.wait(_END_LIMIT_S)
        words = ["/usr/bin/python3", str(WRITER), "check", self.volume.device, "0", str(count), str(self.run)]
        return int(self.guest.run(words, timeout_s=_END_LIMIT_S).stdout) * _BLOCK_BYTES


def both_at_once(stage: Stage, volume: Volume, writer: FlushedWriter, outcome: Outcome) -> int:
    primary, mirror = volume.roles()
    count = writer.flushed()
    for name in (mirror, primary):
        stage.guest(name).power_off()
    for name in (primary, mirror):
        stage.start_again(name)
    return count


def mirror_first(stage: Stage, volume: Volume, writer: FlushedWriter, outcome: Outcome) -> int:
    """The mirror is away while the primary goes on, then the primary; the outdated one is back first."""
    primary, mirror = volume.roles()
    stage.guest(mirror).power_off()
    volume.await_left_out(mirror)
    volume.await_writes(200, GO_ON_LIMIT_S)
    count = writer.flushed()
    stage.guest(primary).power_off()
    stage.start_again(mirror)
    stage.cluster.await_record(f"leases/hosts/{mirror}", lambda _: True)
    # Time in which it could do what it must not.
    time.sleep(3.0 * stage.lease_ttl_s)
    if volume.replica()["primary_host_id"] != primary:
        outcome.troubles.append(f"{mirror}, which was outdated, has been made the primary")
    stage.start_again(primary)
    return count


BLACKOUTS: dict[str, Callable[[Stage, Volume, FlushedWriter, Outcome], int]] = {
    "both-power-off": both_at_once,
    "mirror-then-primary-power-off": mirror_first,
}


def play_blackout(stage: Stage, volume: Volume, name: str, label: str) -> Outcome:
    outcome = Outcome(label)
    began_s = time.monotonic()
    volume.await_in_sync()
    writer = FlushedWriter(volume, label)
    count = BLACKOUTS[name](stage, volume, writer, outcome)
    volume.await_in_sync()
    outcome.wrong_bytes = writer.wrong_bytes(count)
    if "Traceback" in writer.process.output():
        outcome.io_errors += 1
        outcome.troubles.append(writer.process.output().strip().splitlines()[-1])
    outcome.wrong_bytes += volume.differing_bytes()
    outcome.took_s = time.monotonic() - began_s
    outcome.judge()
    return outcome
