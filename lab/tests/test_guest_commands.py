"""Commands in a guest: streams, statuses, limits, background."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from holdfast.lab.errors import GuestGone, LabError
from holdfast.lab.guest import CommandFailed, Guest

pytestmark = pytest.mark.lab


def test_a_guest_is_a_host_of_its_own(storage: Guest, compute: Guest) -> None:
    assert storage.boot_id != compute.boot_id
    assert storage.run(["hostname"]).stdout == "lab-storage\n"
    name = compute.run(["cat", "/etc/iscsi/initiatorname.iscsi"]).stdout
    assert name == f"InitiatorName={compute.initiator}\n"
    assert abs(float(storage.run(["date", "+%s.%N"]).stdout) - time.time()) < 30
    assert "target_core_user" in storage.run(["lsmod"]).stdout
    assert "iscsi_tcp" in compute.run(["lsmod"]).stdout
    assert storage.run(["ls", "/sys/kernel/config/target/core"]).returncode == 0


def test_the_host_s_files_are_there_and_stay_as_they_are(storage: Guest) -> None:
    version = storage.run([sys.executable, "-c", "import holdfast.lab.lab, sys; print(sys.prefix)"])
    assert version.stdout.strip() == sys.prefix
    storage.run(["touch", "/etc/only-in-the-guest"])
    assert subprocess.run(["ls", "/etc/only-in-the-guest"], capture_output=True).returncode
    storage.run(["sh", "-c", "echo hello > /lab/note"])
    assert (storage.folder / "note").read_text() == "hello\n"
    (storage.folder / "answer").write_text("from the host")
    assert storage.run(["cat", "/lab/answer"]).stdout == "from the host"


def test_streams_and_status(storage: Guest) -> None:
    done = storage.run(
        ["sh", "-c", "cat; echo wrong >&2; pwd; echo $MARK; exit 7"],
        input="in\n",
        check=False,
        env={"MARK": "set"},
        cwd="/tmp",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("in\n/tmp\nset\n", "wrong\n", 7)
    with pytest.raises(CommandFailed, match="wrong"):
        storage.run(["sh", "-c", "echo wrong >&2; exit 1"])
    assert storage.run(["sh", "-c", "kill -9 $$"], check=False).returncode == -signal.SIGKILL
    with pytest.raises(LabError, match="no such file: no-such-program"):
        storage.run(["no-such-program"])


def test_megabytes_both_ways_at_once(storage: Guest) -> None:
    data = bytes(range(256)) * 40_000
    assert storage.run_bytes(["cat"], input=data).stdout == data


def test_a_daemon_that_keeps_the_pipe_does_not_keep_the_caller(storage: Guest) -> None:
    done = storage.run(["sh", "-c", "sleep 1000 & echo $!"], timeout_s=30)
    storage.run(["kill", done.stdout.strip()])


def test_a_command_past_its_time_is_killed(storage: Guest) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        storage.run(["sh", "-c", "echo begun; sleep 12345"], timeout_s=2)
    assert caught.value.stdout == b"begun\n"
    # Its process is gone: by the time that the guest's agent has answered once more, or soon.
    gone = "while pgrep -f 'sleep 1234[5]' > /dev/null; do :; done"
    storage.run(["sh", "-c", gone], timeout_s=30)


def test_commands_run_side_by_side(storage: Guest) -> None:
    reader = storage.spawn(["sh", "-c", "mkfifo /tmp/pipe; cat /tmp/pipe"])
    storage.run(["sh", "-c", "until [ -p /tmp/pipe ]; do :; done; echo through > /tmp/pipe"])
    assert reader.wait() == 0
    assert reader.output() == "through\n"


def test_a_background_command_is_waited_for_and_killed(storage: Guest) -> None:
    sleeper = storage.spawn(["sleep", "1000"])
    assert sleeper.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(timeout_s=0.2)
    sleeper.kill(signal.SIGTERM)
    assert sleeper.wait() == sleeper.poll() == -signal.SIGTERM
    sleeper.kill()
    deaf = storage.spawn(["sleep", "1000"])
    deaf.kill(signal.SIGINT)
    assert deaf.wait() == -signal.SIGINT


def test_a_power_cut_ends_the_wait_for_a_command(storage: Guest) -> None:
    caught: list[BaseException] = []

    def wait_in_guest() -> None:
        try:
            storage.run(["sh", "-c", "echo up > /lab/begun; sleep 1000"], timeout_s=None)
        except GuestGone as error:
            caught.append(error)

    waiting = threading.Thread(target=wait_in_guest)
    waiting.start()
    storage.run(["sh", "-c", "until [ -e /lab/begun ]; do :; done"])
    storage.power_off()
    waiting.join(timeout=60)
    assert len(caught) == 1
    with pytest.raises(LabError, match="switched off"):
        storage.run(["true"])
