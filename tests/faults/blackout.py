"""Cases in which every copy loses its power: judged by what had been flushed before."""

import random
import time
from collections.abc import Callable
from pathlib import Path

from faults import GO_ON_LIMIT_S
from flush_aware import AT_MIB, FlushAware
from load import Load
from outcome import Outcome
from stage import Stage
from volume import Volume
from watch import Watch

_MIB = 1 << 20
_REGION_MIB = AT_MIB
_FLUSHES_BEFORE = 20
_WRITES_BEFORE = 1000
_BLOCK_BYTES = 4096
_BEGIN_LIMIT_S = 60
_END_LIMIT_S = 300.0
WRITER = Path(__file__).resolve().with_name("flushed.py")


class FlushedWriter:
    """Writes and flushes in the compute guest; `count` blocks had certainly been flushed at `note`."""

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

    def note(self) -> None:
        lines = self.notes.read_text().split("\n")[:-1]
        self.count = int(lines[-1])

    def judge(self, outcome: Outcome) -> None:
        """End the writer; of the first `count` blocks, what is not as it was flushed is wrong."""
        self.process.kill(15)
        self.process.wait(_END_LIMIT_S)
        words = ["/usr/bin/python3", str(WRITER), "check", self.volume.device, "0", str(self.count)]
        wrong = self.guest.run([*words, str(self.run)], timeout_s=_END_LIMIT_S).stdout
        outcome.wrong_bytes += int(wrong) * _BLOCK_BYTES
        if "Traceback" in self.process.output():
            outcome.io_errors += 1
            outcome.troubles.append(self.process.output().strip().splitlines()[-1])


Note = Callable[[], None]
"""To be called when every copy is off, before one is on again."""


def both_at_once(stage: Stage, volume: Volume, note: Note, outcome: Outcome) -> None:
    primary, mirror = volume.roles()
    for name in (mirror, primary):
        stage.guest(name).power_off()
    note()
    for name in (primary, mirror):
        stage.start_again(name)


def mirror_first(stage: Stage, volume: Volume, note: Note, outcome: Outcome) -> None:
    """The mirror is away while the primary goes on, then the primary; the outdated one is back first."""
    primary, mirror = volume.roles()
    stage.guest(mirror).power_off()
    volume.await_left_out(mirror)
    volume.await_writes(200, GO_ON_LIMIT_S)
    stage.guest(primary).power_off()
    note()
    stage.start_again(mirror)
    stage.cluster.await_record(f"leases/hosts/{mirror}", lambda _: True)
    # Time in which it could do what it must not.
    time.sleep(3.0 * stage.lease_ttl_s)
    if volume.replica()["primary_host_id"] != primary:
        outcome.troubles.append(f"{mirror}, which was outdated, has been made the primary")
    stage.start_again(primary)


BLACKOUTS: dict[str, Callable[[Stage, Volume, Note, Outcome], None]] = {
    "both-power-off": both_at_once,
    "mirror-then-primary-power-off": mirror_first,
}


def play_blackout(stage: Stage, volume: Volume, name: str, label: str) -> Outcome:
    outcome = Outcome(label)
    began_s = time.monotonic()
    volume.await_in_sync()
    writers = (FlushAware(volume, label), FlushedWriter(volume, label))
    watch = Watch(stage.cluster, f"volumes/{volume.uid}", stage.cluster.logs / f"watch-{label}.log")
    load = Load(volume, label, fio_mib=0, flushed=True)
    volume.await_writes(_WRITES_BEFORE, GO_ON_LIMIT_S)

    def note() -> None:
        for writer in writers:
            writer.note()

    BLACKOUTS[name](stage, volume, note, outcome)
    load.await_going(GO_ON_LIMIT_S)
    volume.await_in_sync()
    load.end(outcome)
    outcome.resynced_bytes = watch.marked_bytes()
    watch.end()
    for writer in writers:
        writer.judge(outcome)
    outcome.wrong_bytes += volume.differing_bytes()
    outcome.took_s = time.monotonic() - began_s
    outcome.judge()
    return outcome
