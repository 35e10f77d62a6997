"""`holdfast attachment login`: on the initiator, as root, what `attachment show` prints for it.

It sets nothing but the nodes of this attachment. multipath.conf stays the administrator's: there is one for
the whole machine.
"""

import subprocess

import click

from holdfast.api.attachment.v1 import attachment_pb2 as pb
from holdfast.base.errors import HoldfastError, Precondition
from holdfast.cli.failures import say
from holdfast.cli.iscsi import steps
from holdfast.cli.session import session

SESSION_EXISTS = 15
"""iscsiadm's status (ISCSI_ERR_SESS_EXISTS): logged in already."""
STEP_TIMEOUT_S = 60.0


@click.command()
@click.argument("attachment_id")
def login(attachment_id: str) -> None:
    """Log this machine in to the volume, by every path. As root; iscsid must run.

    The settings are for multipathd: see `attachment show --multipath-conf`. A path that fails does not
    keep the others from being tried; the exit status is 1 then.
    """
    with session() as at:
        request = pb.GetAttachmentRequest(attachment_id=attachment_id)
        attachment = at.call(at.client.attachments.GetAttachment, request).attachment
    if not attachment.portals:
        raise Precondition("NOT_READY", f"Attachment {attachment_id!r} has no portal yet: wait for READY.")
    failed = [portal for portal in attachment.portals if not _log_in(attachment, portal)]
    if failed:
        raise HoldfastError("PATHS_FAILED", f"No session with {', '.join(failed)}: is that host up?")


def _log_in(attachment: pb.Attachment, portal: str) -> bool:
    """Whether there is a session with `portal`. Raises HoldfastError without an iscsiadm."""
    for step in steps(attachment, portal):
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
