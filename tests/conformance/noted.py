"""Unit attentions as an initiator's kernel notes them: its own commands, and udev's, take them too."""

from collections.abc import Callable

from holdfast.lab.guest import Guest

CHANGED_PATHS = "Asymmetric access state changed"
PREEMPTED = "Parameters changed"
"""2A with another qualifier than those that the kernel has words for: 2A/03, here."""
RESET = "Power-on or device reset occurred"
_MARK = "judged from here"
_LIMIT_S = 60
_TRIES = 200


def _noted(guest: Guest, disk: str, what: str) -> int:
    """How often since the mark, of this disk."""
    unit = f"$(basename $(readlink -f /sys/block/$(basename $(readlink -f {disk}))/device))"
    script = f'dmesg | tac | sed "/{_MARK}/q" | grep -c "{unit}: {what}" || true'
    return int(guest.run(["sh", "-c", script], timeout_s=_LIMIT_S).stdout)


def told(guest: Guest, disks: list[str], what: str, bring_about: Callable[[], object]) -> list[int]:
    """How often the initiator of each disk is told: commands are sent until it is, and some more."""
    # A mark, since old lines leave the log when new ones come.
    guest.run(["sh", "-c", f"echo {_MARK} > /dev/kmsg"])
    bring_about()
    for disk in disks:
        for _ in range(_TRIES):
            guest.run(["sg_turs", disk], check=False, timeout_s=_LIMIT_S)
            if _noted(guest, disk, what):
                break
    for disk in disks:
        guest.run(["sg_turs", "--number=5", disk], check=False, timeout_s=_LIMIT_S)
    return [_noted(guest, disk, what) for disk in disks]
