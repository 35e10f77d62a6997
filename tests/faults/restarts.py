"""Workers killed, and upgraded in place, under verified I/O: what that costs initiators.

    python tests/faults/restarts.py                              100 kills, then 20 upgrades
    python tests/faults/restarts.py --kills 6 --upgrades 2 --volumes 1

As root, after `holdfast-lab install`; about half an hour. Primaries' and mirrors' workers are killed in turn,
by SIGKILL, each a minute after it was started: one that ends sooner again and again is started later and
later (its agent's brake on crash loops), which is not what is measured here. An upgrade is an agent that is
restarted from another place, on one host and then on the other. It passes without an I/O error or a wrong
byte, with equal replicas; the longest pause is printed.
"""

import argparse
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from faults import GO_ON_LIMIT_S
from load import Load
from outcome import Outcome, header
from stage import Stage
from volume import Volume

from holdfast.lab.fixtures import run_folder
from holdfast.lab.lab import Lab
from holdfast.lab.versions import copy_code

_VOLUMES = 4
_SETTLED_S = 62
"""How long a worker runs before it is killed: BACKOFF_FORGET_S, and a little."""
_NEW_WORKER_LIMIT_S = 120


class Restarts:
    """Phases on one stage, each with a load of its own on every volume."""

    def __init__(self, stage: Stage, volumes: list[Volume], codes: list[dict[str, str]]) -> None:
        self.stage = stage
        self.volumes = volumes
        self.codes = itertools.cycle(codes)

    def phase(self, name: str, act: Callable[[], None]) -> bool:
        began_s = time.monotonic()
        for volume in self.volumes:
            volume.await_in_sync()
        loads = [Load(volume, f"{name}-{volume.name}") for volume in self.volumes]
        outcomes = [Outcome(f"{name} {volume.name}") for volume in self.volumes]
        trouble = ""
        try:
            act()
        except Exception as error:  # whatever it is: what the loads saw is told all the same
            trouble = f"{type(error).__name__}: {error}"
        for volume, load, outcome in zip(self.volumes, loads, outcomes, strict=True):
            load.end(outcome)
            outcome.troubles += [trouble] if trouble else []
            outcome.wrong_bytes += volume.differing_bytes()
            outcome.took_s = time.monotonic() - began_s
            outcome.judge()
            print(outcome.row(), flush=True)
        return all(outcome.passed for outcome in outcomes)

    def kill(self, count: int) -> None:
        hosts = self.stage.storage_names
        workers = itertools.cycle([(volume, host) for host in hosts for volume in self.volumes])
        for number in range(1, count + 1):
            volume, host = next(workers)
            guest = self.stage.guest(host)
            record = f"/run/holdfast/{volume.uid}.pid"
            wait = f"left=$(({_SETTLED_S} + $(stat -c %Y {record}) - $(date +%s)));"
            guest.run(["sh", "-c", f"{wait} [ $left -le 0 ] || sleep $left"], timeout_s=_SETTLED_S + 60)
            pid = volume.worker_pid(host)
            guest.run(["kill", "-KILL", pid])
            self._await_another(volume, host, pid)
            volume.await_writes(20, GO_ON_LIMIT_S)
            if number % 10 == 0:
                print(f"    {number} killed", flush=True)

    def upgrade(self, count: int) -> None:
        """Of all hosts to the same code, one after the other, then to the next one."""
        hosts = len(self.stage.storage_names)
        code: dict[str, str] = {}
        for number in range(count):
            host = self.stage.storage_names[number % hosts]
            code = code if number % hosts else next(self.codes)
            before = [volume.worker_pid(host) for volume in self.volumes]
            agent = self.stage.cluster.agents[host]
            agent.kill(signal.SIGTERM)
            agent.wait(60)
            self.stage.agent_env = code
            self.stage.start_agent(host)
            for volume, pid in zip(self.volumes, before, strict=True):
                self._await_another(volume, host, pid)
                self._check_code(volume, host, code)
            for volume in self.volumes:
                volume.await_in_sync()
                volume.await_writes(20, GO_ON_LIMIT_S)
            print(f"    upgrade {number + 1} of {len(self.volumes)} workers on {host}", flush=True)

    def _await_another(self, volume: Volume, host: str, pid: str) -> None:
        changed = f"until ! grep -q '\"pid\": {pid},' /run/holdfast/{volume.uid}.pid; do sleep 0.02; done"
        limit_s = _NEW_WORKER_LIMIT_S
        self.stage.guest(host).run(["timeout", str(limit_s), "sh", "-c", changed], timeout_s=limit_s + 30)

    def _check_code(self, volume: Volume, host: str, code: dict[str, str]) -> None:
        """It does run the code that it was to be upgraded to."""
        environment = f"/proc/{volume.worker_pid(host)}/environ"
        self.stage.guest(host).run(["grep", "-qa", f"PYTHONPATH={code['PYTHONPATH']}", environment])


def play(options: argparse.Namespace) -> bool:
    with ExitStack() as stack:
        # Where a guest sees it: not in /dev/shm, as the lab's folder may be.
        places = [stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")) for _ in range(2)]
        codes = [copy_code(Path(place)) for place in places]
        folder = stack.enter_context(
            run_folder("holdfast-restarts-", lambda path: Lab.leftover(path / "lab").down())
        )
        stage = Stage(folder / "lab", folder / "disks")
        stack.callback(stage.down)
        stage.agent_env = codes[-1]  # a copy too: who works on the code meanwhile changes nothing here
        stage.up()
        volumes = [Volume(stage, f"v{number}") for number in range(1, options.volumes + 1)]
        restarts = Restarts(stage, volumes, codes)
        print(header(), flush=True)
        good = restarts.phase(f"{options.kills} kills", lambda: restarts.kill(options.kills))
        return (
            restarts.phase(f"{options.upgrades} upgrades", lambda: restarts.upgrade(options.upgrades))
            and good
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--upgrades", type=int, default=20)
    parser.add_argument("--volumes", type=int, default=_VOLUMES)
    good = play(parser.parse_args())
    print("passed" if good else "failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
