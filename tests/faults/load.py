"""What runs on the device while a fault is in force: fio that verifies as it goes, and a pulse."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outcome import Outcome
from volume import FILL_AT_MIB, SIZE_MIB, Volume

from holdfast.lab.guest_process import GuestProcess

_MIB = 1 << 20
FIO_MIB = 64
_PULSE_AT_MIB, _PULSE_MIB = FILL_AT_MIB, 4
_VERIFY_FAILED = 84  # EILSEQ: how fio says that it read other bytes than it had written
_END_LIMIT_S = 180.0
_BEGIN_LIMIT_S = 60.0
_BLOCK_BYTES = 4096
PULSE = Path(__file__).resolve().with_name("pulse.py")


def _fio(device: str, size_mib: int) -> list[str]:
    return [
        *("fio", "--name=verify", f"--filename={device}", f"--size={size_mib}M", "--thread"),
        *("--direct=1", "--ioengine=libaio", "--iodepth=8", "--rw=randwrite", "--bs=4k"),
        *("--verify=crc32c", "--verify_backlog=128", "--verify_fatal=1", "--verify_state_save=0"),
        # Enough to be always in the middle of something, not so much that the pauses are of its making.
        *("--rate_iops=300", "--randrepeat=0", "--time_based", "--runtime=86400"),
        *("--output-format=json", "--eta=never"),
    ]


class Load:
    """Starts at once; `end` stops it and says what it saw. Without `fio_mib` the pulse is alone. `flushed`:
    its writes count only once they have been flushed.
    """

    def __init__(self, volume: Volume, name: str, fio_mib: int = FIO_MIB, flushed: bool = False) -> None:
        assert _PULSE_AT_MIB + _PULSE_MIB <= SIZE_MIB
        guest = volume.stage.compute
        self.volume = volume
        self.report = guest.folder / f"pulse-{name}.json"
        region = [str(_PULSE_AT_MIB * _MIB), str(_PULSE_MIB * _MIB)]
        words = ["/usr/bin/python3", str(PULSE), volume.device, *region]
        inside = f"{guest.shared_dir}/{self.report.name}"
        how = ["flushed"] if flushed else []
        fio = _fio(volume.device, fio_mib)
        self.fio = guest.spawn(fio, log_name=f"fio-{name}.log") if fio_mib else None
        self.pulse = guest.spawn([*words, inside, *how], log_name=f"pulse-{name}.log")
        self.await_going(_BEGIN_LIMIT_S)

    def await_going(self, limit_s: float) -> None:
        """I/O is being answered: some writes of each have ended since the call."""
        self.volume.await_writes(300 if self.fio else 50, limit_s)

    def end(self, outcome: Outcome, given_up: bool = False) -> None:
        """Stop both and add what they saw. `given_up`: an operator has given up writes, also the pulse's."""
        self.pulse.kill(signal.SIGTERM)
        if self.fio:
            self._end_fio(self.fio, outcome)
        self.pulse.wait(_END_LIMIT_S)
        self._add_pulse(outcome, given_up)

    @staticmethod
    def _end_fio(fio: GuestProcess, outcome: Outcome) -> None:
        fio.kill(signal.SIGINT)
        status = fio.wait(_END_LIMIT_S)
        seen = read_fio(fio.output())
        outcome.io_errors += seen.io_errors
        outcome.wrong_bytes += seen.wrong_bytes
        if not seen.verified:
            outcome.troubles.append(f"fio verified nothing (status {status}): {fio.log}")

    def _add_pulse(self, outcome: Outcome, given_up: bool) -> None:
        if not self.report.exists():
            outcome.troubles.append(f"the pulse did not report: {self.pulse.output()[-500:]}")
            return
        seen: dict[str, Any] = json.loads(self.report.read_text())
        outcome.io_errors += len(seen["errors"])
        wrong_blocks = [] if given_up else seen["wrong_blocks"]
        outcome.wrong_bytes += len(wrong_blocks) * _BLOCK_BYTES
        outcome.troubles.extend([*seen["errors"][:3], *wrong_blocks[:3]])
        outcome.pause_ms = seen["pauses"][0]["ms"]


@dataclass(frozen=True)
class FioSeen:
    io_errors: int
    wrong_bytes: int
    verified: int


def read_fio(text: str) -> FioSeen:
    """What fio wrote: its sentences about wrong blocks, then JSON (none if it was killed)."""
    wrong_blocks = sum(line.startswith("verify:") for line in text.splitlines())
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0:
        return FioSeen(1, wrong_blocks * _BLOCK_BYTES, 0)
    job = json.loads(text[begin : end + 1])["jobs"][0]
    if job["error"] == _VERIFY_FAILED:
        wrong_blocks = max(wrong_blocks, 1)
    failed = int(job["error"] not in (0, _VERIFY_FAILED))
    return FioSeen(failed, wrong_blocks * _BLOCK_BYTES, job["read"]["total_ios"])
