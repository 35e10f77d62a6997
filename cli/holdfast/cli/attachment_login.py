"""`holdfast attachment login`: on the initiator, as root, what `attachment show` prints for it.

It sets nothing but the nodes of this attachment. multipath.conf stays the administrator's: there is one for
the whole machine.
"""

import subprocess
from pathlib import Path

import click

from holdfast.api.attachment.v1 import attachment_pb2 as pb
from holdfast.base.errors import HoldfastError, Precondition
from holdfast.cli.failures import say
from holdfast.cli.iscsi import portals, steps
from holdfast.cli.session import session

SESSION_EXISTS = 15
"""iscsiadm's status (ISCSI_ERR_SESS_EXISTS): logged in already."""
STEP_TIMEOUT_S = 60.0
SOCKETS = Path("/proc/net/unix")
"""The sockets of this machine, multipathd's among them while it runs."""


@click.command()
@click.argument("attachment_id")
@click.option(
    "--multipath/--no-multipath",
    "with_multipath",
    default=True,
    show_default=True,
    help="Every path, each given up after seconds; or the active one alone, waited for as Linux does.",
)
def login(attachment_id: str, with_multipath: bool) -> None:
    """Log this machine in to the volume. As root; iscsid must run.

    By every path, for multipathd, which must run: see `attachment show --multipath-conf`. Without it such
    a disk would report errors as soon as a host is away for two seconds: then use `--no-multipath`.

    A path that fails does not keep the others from being tried; the exit status is 1 then.
    """
    if with_multipath and "multipathd" not in SOCKETS.read_text():
        raise Precondition(
            "NO_MULTIPATHD", "multipathd does not run here: start it, or log in by one path, --no-multipath."
        )
    with session() as at:
        request = pb.GetAttachmentRequest(attachment_id=attachment_id)
        attachment = at.call(at.client.attachments.GetAttachment, request).attachment
    wanted = portals(attachment, with_multipath=with_multipath)
    if not wanted:
        raise Precondition("NOT_READY", f"Attachment {attachment_id!r} has no portal yet: wait for READY.")
    failed = [portal for portal in wanted if not _log_in(attachment, portal, with_multipath)]
    if failed:
        raise HoldfastError("PATHS_FAILED", f"No session with {', '.join(failed)}: is that host up?")


def _log_in(attachment: pb.Attachment, portal: str, with_multipath: bool) -> bool:
    """Whether there is a session with `portal`. Raises HoldfastError without an iscsiadm."""
    for step in steps(attachment, portal, with_multipath=with_multipath):
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False)
        except FileNotFoundError as error:
            raise HoldfastError("NO_ISCSIADM", "There is no iscsiadm here: install open-iscsi.") from error
        except subprocess.TimeoutExpired:
            say(f"{portal}: iscsiadm did not end within {STEP_TIMEOUT_S:g} s.")
            return False
        if done.returncode not in (0, SESSION_EXISTS):
            said = " ".join(done.stderr.split())
            # Never the step itself: it may hold the secret.
            say(f"{portal}: iscsiadm ended with {done.returncode}: {said}")
            return False
    click.echo(f"Logged in at {portal}.")
    return True
