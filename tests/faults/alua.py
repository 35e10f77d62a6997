"""What the two paths of a volume say of the target port groups: the same, whichever of them is asked."""

import re
import time

from stage import Stage

from holdfast.lab.multipath import Map

_AGREE_LIMIT_S = 15.0
"""After a move the other host hears of it from the records."""
_GROUP = re.compile(r"target port group id : (\S+).*?asymmetric access state : (\S+)", re.DOTALL)
ACTIVE = "0x00"

Groups = dict[str, str]
"""The state of each group, by its id, as sg_rtpg names both."""


def read_groups(text: str) -> Groups:
    return dict(_GROUP.findall(text))


def agree(answers: list[Groups]) -> bool:
    """All the same, each group told of once for each path, and one of them active and optimized."""
    first = answers[0]
    return (
        all(one == first for one in answers)
        and len(first) == len(answers)
        and list(first.values()).count(ACTIVE) == 1
    )


def ask(stage: Stage, device: Map) -> list[Groups]:
    slaves = f"/sys/block/{device.device.removeprefix('/dev/')}/slaves"
    disks = stage.compute.run(["ls", slaves]).stdout.split()
    return [read_groups(stage.compute.run(["sg_rtpg", "-d", f"/dev/{disk}"]).stdout) for disk in disks]


def await_agreement(stage: Stage, device: Map, paths: int) -> str:
    """What is wrong if they do not come to agree; "" if they do."""
    until_s = time.monotonic() + _AGREE_LIMIT_S
    while True:
        answers = ask(stage, device)
        if len(answers) == paths and agree(answers):
            return ""
        if time.monotonic() > until_s:
            return f"the paths' answers about target port groups do not agree: {answers}"
