"""Detached while its initiator is in the middle of I/O: the export goes, and the volume can be used again."""

import time

from outcome import Outcome
from stage import USER, Stage
from volume import SIZE_MIB, Made, Stuck, Volume

from holdfast.lab import multipath
from holdfast.lab.guest_process import GuestProcess

DETACHED = "detached-under-load"
_TIMES = 3
_BEGUN_WRITES = 300
_BEGIN_LIMIT_S = 60
_GONE_LIMIT_S = 20
"""What is in flight is answered within 10 s."""
_END_LIMIT_S = 60


def play_detached(stage: Stage, _volume: Volume) -> Outcome:
    outcome = Outcome(DETACHED)
    began_s = time.monotonic()
    volume = Volume(stage, DETACHED, Made())
    volume.await_in_sync()
    longest_s = 0.0
    for _ in range(_TIMES):
        workers = [volume.worker_pid(host) for host in stage.storage_names]
        fio = _deep_load(volume)
        detached_s = time.monotonic()
        stage.cluster.cli(USER, "attachment", "delete", volume.name, timeout_s=_GONE_LIMIT_S)
        for host in stage.storage_names:
            _await_no_export(volume, host)
        longest_s = max(longest_s, time.monotonic() - detached_s)
        if workers != [volume.worker_pid(host) for host in stage.storage_names]:
            outcome.troubles.append("a worker did not survive it")
        _give_up_paths(volume, fio)
        volume.attach()
    outcome.wrong_bytes += volume.differing_bytes()
    outcome.notes.append(f"detached within {longest_s:.1f} s")
    outcome.took_s = time.monotonic() - began_s
    outcome.judge()
    if outcome.passed:
        volume.remove()
    return outcome


def _deep_load(volume: Volume) -> GuestProcess:
    """So deep that some of it is always in flight."""
    fio = ["fio", "--name=deep", f"--filename={volume.device}", f"--size={SIZE_MIB}M", "--thread"]
    fio += ["--direct=1", "--ioengine=libaio", "--iodepth=32", "--rw=randrw", "--bssplit=4k/50:64k/50"]
    running = volume.stage.compute.spawn(
        [*fio, "--time_based", "--runtime=86400", "--eta=never"], log_name=f"fio-{DETACHED}.log"
    )
    volume.await_writes(_BEGUN_WRITES, _BEGIN_LIMIT_S)
    return running


def _await_no_export(volume: Volume, host: str) -> None:
    kernel = "/sys/kernel/config/target"
    left = f"ls -d {kernel}/iscsi/*{volume.uid} {kernel}/core/*/{volume.uid} 2>/dev/null"
    words = ["timeout", str(_GONE_LIMIT_S), "sh", "-c", f'while [ -n "$({left})" ]; do sleep 0.1; done']
    if volume.stage.guest(host).run(words, timeout_s=_GONE_LIMIT_S + 30, check=False).returncode:
        raise Stuck(f"{host} still exports the volume after {_GONE_LIMIT_S} s")


def _give_up_paths(volume: Volume, fio: GuestProcess) -> None:
    """Without a path the map would keep for ever what fio has asked for."""
    guest = volume.stage.compute
    guest.run(["multipathd", "disablequeueing", "map", volume.map.name])
    fio.kill()
    fio.wait(_END_LIMIT_S)
    multipath.log_out_all(guest, volume.logins, volume.map)
