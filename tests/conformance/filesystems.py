"""File systems as judges: made, filled, trimmed, mounted again, cut off from power, and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hosts import Volume, World
from suite import FAILED, PASSED, Verdict

from holdfast.lab import initiator
from holdfast.lab.guest import CommandFailed

FSYNCED = Path(__file__).resolve().with_name("fsynced.py")
_FILES, _FILE_MIB = 16, 12
_NOTES_BEFORE_CUT = 150
_LIMIT_S = 300
_BACK_SHARE = 0.9
"""Of what was deleted, so much must be free again on both hosts after fstrim."""


@dataclass(frozen=True)
class Kind:
    make: str
    check: str


KINDS = {
    "ext4": Kind("mkfs.ext4 -q -F", "fsck.ext4 -fn"),
    "xfs": Kind("mkfs.xfs -q -f", "xfs_repair -n"),
    "btrfs": Kind("mkfs.btrfs -q -f", "btrfs check --force"),
}


class Judge:
    """One file system on one volume, mounted on /mnt/judged of the compute host."""

    def __init__(self, world: World, volume: Volume, kind: str) -> None:
        self.world, self.volume, self.name, self.kind = world, volume, kind, KINDS[kind]
        self.disk = ""

    def shell(self, script: str) -> str:
        words = ["sh", "-c", f"set -e; D={self.disk}; M=/mnt/judged; {script}"]
        return self.world.compute.run(words, timeout_s=_LIMIT_S).stdout

    def verdict(self, step: str, script: str) -> Verdict:
        try:
            self.shell(script)
        except CommandFailed as error:
            return Verdict(f"{self.name}.{step}", FAILED, str(error)[-400:].replace("\n", " "))
        return Verdict(f"{self.name}.{step}", PASSED)

    def judge(self) -> Iterator[Verdict]:
        self.disk = self.volume.log_in()
        self.shell(f"mkdir -p $M; modprobe {self.name} || true")
        yield self.verdict("made-and-mounted", f"{self.kind.make} $D && mount $D $M")
        yield self.verdict("filled", _FILL)
        yield self._trimmed()
        yield self.verdict("remounted", f"umount $M; {_FORGET}; mount $D $M; sha256sum --quiet -c /tmp/sums")
        yield self.verdict("checked", f"umount $M; {_FORGET}; {self.kind.check} $D")
        yield from self._power_cut()
        initiator.log_out(self.world.compute, self.volume.active_login())
        yield self.volume.equal_verdict(f"{self.name}.replicas-equal")

    def _trimmed(self) -> Verdict:
        before = self.volume.stored_mib()
        self.shell(
            "rm $M/file-*[02468]; grep -v '[02468]$' /tmp/sums > /tmp/left; mv /tmp/left /tmp/sums; sync"
        )
        self.shell("sync -f $M; fstrim $M")
        wanted = _BACK_SHARE * _FILE_MIB * _FILES / 2
        back = [old - new for old, new in zip(before, self.volume.stored_mib(), strict=True)]
        said = f"{back[0]:.0f} and {back[1]:.0f} MiB of {_FILE_MIB * _FILES // 2} came back"
        return Verdict(f"{self.name}.trimmed", PASSED if min(back) >= wanted else FAILED, said)

    def _power_cut(self) -> Iterator[Verdict]:
        compute = self.world.compute
        self.shell("mount $D $M; mkdir -p $M/cut")
        notes = compute.folder / f"fsynced-{self.name}"
        inside = f"{compute.shared_dir}/{notes.name}"
        compute.spawn(["/usr/bin/python3", str(FSYNCED), "write", "/mnt/judged/cut", inside])
        wait = f"until [ $(wc -l < {inside}) -ge {_NOTES_BEFORE_CUT} ]; do sleep 0.05; done"
        compute.run(["timeout", str(_LIMIT_S), "sh", "-c", wait], timeout_s=_LIMIT_S + 10)
        self.world.power_cut()
        count = int(notes.read_text().split("\n")[-2])
        self.volume.await_in_sync()
        self.disk = self.volume.log_in()
        self.shell(f"mkdir -p $M; modprobe {self.name} || true")
        yield self.verdict("mounted-after-power-cut", "mount $D $M")
        check = f"test $(python3 {FSYNCED} check $M/cut {count}) = 0"
        yield self.verdict(f"fsynced-files-are-there-{count}", check)
        yield self.verdict("checked-after-power-cut", f"umount $M; {_FORGET}; {self.kind.check} $D")


_FORGET = "blockdev --flushbufs $D; echo 3 > /proc/sys/vm/drop_caches"
_FILL = (
    f"for at in $(seq 1 {_FILES}); do head -c {_FILE_MIB}M /dev/urandom > $M/file-$at; done;"
    " sync -f $M; sha256sum $M/file-* > /tmp/sums"
)


def judge(world: World, volume: Volume, kind: str) -> Iterator[Verdict]:
    return Judge(world, volume, kind).judge()
