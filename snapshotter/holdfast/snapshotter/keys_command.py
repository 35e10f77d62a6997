"""Keys behind a command: any key management service that a script can speak to.

The command is started for each wrap and unwrap, with nothing in its arguments. It reads one JSON object
from its standard input, and answers with one on its standard output:

    {"operation": "wrap", "user": "alice", "key": "main", "context": "holdfast 1 …", "data": "<base64>"}
    {"data": "<base64>"}

`data` is the secret to be wrapped, or what was wrapped; the command must give back for `unwrap` what it
was given for `wrap` with the same user, key and context, and refuse if any of them differs. Exit status:
0 done; 3 there is no such key, or it does not open that; anything else: it could not be done now. The
last line of its standard error says why, for people: it must not hold secrets. What takes longer than the
limit is killed, with all of its process group.
"""

import base64
import json
import os
import signal
import subprocess
from pathlib import Path

from holdfast.snapshotter.key_errors import KeyUnavailable

STATUS_LOST = 3
TIMEOUT_S = 10.0
_WHY_MAX_CHARS = 200
ANSWER_MAX_BYTES = 16_384


class CommandKeys:
    """A KeyService that asks `command`."""

    def __init__(self, command: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._command = command
        self._timeout_s = timeout_s

    def wrap(self, user: str, name: str, context: bytes, secret: bytes) -> bytes:
        return self._ask("wrap", user, name, context, secret)

    def unwrap(self, user: str, name: str, context: bytes, wrapped: bytes) -> bytes:
        return self._ask("unwrap", user, name, context, wrapped)

    def _ask(self, operation: str, user: str, name: str, context: bytes, data: bytes) -> bytes:
        question = {
            "operation": operation,
            "user": user,
            "key": name,
            "context": context.decode("ascii"),
            "data": base64.b64encode(data).decode("ascii"),
        }
        what = f"The key command {self._command} did not {operation} with key {name!r} of user {user}"
        status, answer, why = self._run(json.dumps(question).encode(), what)
        if status:
            raise KeyUnavailable(f"{what}: {why or f'exit status {status}'}.", lost=status == STATUS_LOST)
        try:
            found = base64.b64decode(json.loads(answer)["data"], validate=True)
        except (ValueError, KeyError, TypeError) as error:
            # The answer itself may be half a secret: it is not shown.
            raise KeyUnavailable(f'{what}: its answer is not {{"data": "<base64>"}}.') from error
        if not found:
            raise KeyUnavailable(f"{what}: its answer is empty.")
        return found

    def _run(self, question: bytes, what: str) -> tuple[int, bytes, str]:
        """Exit status, output, and the last line of its errors."""
        try:
            process = subprocess.Popen(
                [self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise KeyUnavailable(f"{what}: it cannot be started ({error.strerror}).") from error
        with process:
            try:
                output, errors = process.communicate(question, timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                # Its children too: one that holds on to the pipes would keep us.
                os.killpg(process.pid, signal.SIGKILL)
                raise KeyUnavailable(f"{what} within {self._timeout_s:g} s.") from None
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        why = "".join(c for c in lines[-1] if c.isprintable())[:_WHY_MAX_CHARS].rstrip(".") if lines else ""
        if len(output) > ANSWER_MAX_BYTES:
            raise KeyUnavailable(f"{what}: it answered {len(output)} bytes.")
        return process.returncode, output, why
