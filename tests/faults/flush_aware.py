"""fio's own judgement of a loss of power: what it had seen completed must be there after a restart.

It writes with O_DSYNC, so that what has completed has been flushed, and each block once. While everything is
off a trigger makes it save its state: how many writes it had issued, and the last that had completed. After
the restart another fio reads as far as that state goes. README.md, *fio's verify after a restart*, has what
that is worth and why the arguments are as they are.
"""

import random

from load import read_fio
from outcome import Outcome
from volume import Stuck, Volume

_MIB = 1 << 20
AT_MIB, SIZE_MIB = 64, 32
_SEEN_LEAST = 50
_SAVE_LIMIT_S = 60
_END_LIMIT_S = 300.0


def words(device: str, at_mib: int, size_mib: int, seed: int, folder: str) -> list[str]:
    """What both runs must have in common."""
    return [
        *("fio", "--name=flushed", f"--filename={device}", f"--offset={at_mib}M", f"--size={size_mib}M"),
        *("--thread", "--direct=1", "--ioengine=libaio", "--rw=randwrite", "--bs=4k", "--verify=crc32c"),
        *(f"--randseed={seed}", f"--aux-path={folder}", "--output-format=json", "--eta=never"),
    ]


def writing(common: list[str], trigger: str, saved: str) -> list[str]:
    """Too slow to end by itself. Saves its state once `trigger` is there, then makes `saved`."""
    # With a depth below four fio 3.33 reads on beyond what its state says.
    how = ["--iodepth=8", "--sync=dsync", "--rate_iops=200", "--do_verify=0", "--verify_state_save=1"]
    return [*common, *how, f"--trigger-file={trigger}", f"--trigger=touch {saved}"]


def reading(common: list[str]) -> list[str]:
    """One at a time: with several under way, writes are asked for that had not completed."""
    return [*common, "--iodepth=1", "--verify_only=1", "--verify_state_load=1", "--verify_state_save=0"]


class FlushAware:
    """Begins at once; `note` when all copies are off, `judge` when they are back."""

    def __init__(self, volume: Volume, label: str) -> None:
        self.volume = volume
        self.guest = volume.stage.compute
        self.folder = f"{self.guest.shared_dir}/state-{label}"
        clear = f"rm -rf {self.folder} && mkdir {self.folder}"
        # Only the header of a block is looked at, so that an earlier run's block would pass for this one's.
        zero = f"dd if=/dev/zero of={volume.device} bs=1M seek={AT_MIB} count={SIZE_MIB} oflag=direct"
        self.guest.run(["sh", "-c", f"{clear} && {zero} conv=fsync"], timeout_s=300)
        self.common = words(volume.device, AT_MIB, SIZE_MIB, random.getrandbits(31), self.folder)
        run = writing(self.common, self._trigger, self._saved)
        self.process = self.guest.spawn(run, log_name=f"fio-{label}.log")

    @property
    def _trigger(self) -> str:
        return f"{self.folder}/trigger"

    @property
    def _saved(self) -> str:
        return f"{self.folder}/saved"

    def note(self) -> None:
        look = f"touch {self._trigger}; until [ -e {self._saved} ]; do sleep 0.05; done"
        done = self.guest.run(
            ["timeout", str(_SAVE_LIMIT_S), "sh", "-c", look], timeout_s=_SAVE_LIMIT_S + 30, check=False
        )
        if done.returncode:
            raise Stuck(f"fio has not saved its state: {self.process.output()[-500:]}")

    def judge(self, outcome: Outcome) -> None:
        """What was under way when the power went comes to its end first."""
        self.process.wait(_END_LIMIT_S)
        outcome.io_errors += read_fio(self.process.output()).io_errors
        done = self.guest.run(reading(self.common), timeout_s=_END_LIMIT_S, check=False)
        seen = read_fio(f"{done.stderr}\n{done.stdout}")
        outcome.io_errors += seen.io_errors
        outcome.wrong_bytes += seen.wrong_bytes
        if seen.verified < _SEEN_LEAST:
            outcome.troubles.append(f"fio verified {seen.verified} blocks: {done.stderr[-300:]}")
        outcome.notes.append(f"fio verified {seen.verified} flushed blocks")
