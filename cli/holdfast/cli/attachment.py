"""`holdfast attachment …`"""

import click

from holdfast.api.attachment.v1 import attachment_pb2 as pb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound
from holdfast.cli import multipath
from holdfast.cli.attachment_login import login
from holdfast.cli.iscsi import how_to_log_in
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, facts, moment, output_option, state_name, table
from holdfast.cli.waiting import Narrator, until, until_deleted, wait_options


@click.group("attachment")
def command() -> None:
    """Which initiator may log in to a volume, and how."""


@command.command()
@click.argument("attachment_id")
@click.option("--volume", "volume_id", required=True, help="This volume of yours.")
@click.option("--initiator", "iqn", required=True, help="As in /etc/iscsi/initiatorname.iscsi.")
@wait_options(default=True)
@output_option
def create(attachment_id: str, volume_id: str, iqn: str, wait: bool, timeout_s: float) -> None:
    """Let one initiator log in to a volume, and print how it does."""
    with session() as at:
        request = pb.CreateAttachmentRequest(
            attachment_id=attachment_id, volume_id=volume_id, initiator_iqn=iqn
        )
        attachment = at.call(at.client.attachments.CreateAttachment, request).attachment
        if wait:
            attachment = _wait_ready(at, attachment_id, timeout_s)
        emit(attachment, lambda: _show(attachment))


@command.command("list")
@click.option("--volume", "volume_id", default="", help="Only of this volume.")
@output_option
def list_(volume_id: str) -> None:
    """List your attachments, without their secrets."""
    with session() as at:
        request = pb.ListAttachmentsRequest(volume_id=volume_id)
        response = at.pages(at.client.attachments.ListAttachments, request)
    rows = [
        [
            one.attachment_id,
            one.volume_id,
            one.initiator_iqn,
            state_name(r.AttachmentState.Name(one.state)),
            " ".join(path.portal for path in one.paths),
            one.reason,
        ]
        for one in response.attachments
    ]
    heads = ["ATTACHMENT", "VOLUME", "INITIATOR", "STATE", "PORTAL", "REASON"]
    emit(response, lambda: table(heads, rows, "You have no attachments."))


@command.command()
@click.argument("attachment_id")
@click.option("--multipath-conf", is_flag=True, help="Print only what belongs in /etc/multipath.conf.")
@output_option
def show(attachment_id: str, multipath_conf: bool) -> None:
    """Show one attachment, its CHAP secret, and what makes the initiator log in, over every path."""
    if multipath_conf:
        click.echo(multipath.multipath_conf(), nl=False)
        return
    with session() as at:
        request = pb.GetAttachmentRequest(attachment_id=attachment_id)
        attachment = at.call(at.client.attachments.GetAttachment, request).attachment
    emit(attachment, lambda: _show(attachment))


@command.command()
@click.argument("attachment_id")
@wait_options(default=True)
def delete(attachment_id: str, wait: bool, timeout_s: float) -> None:
    """Take an attachment away. Log out first: its session is ended."""
    with session() as at:
        at.call(
            at.client.attachments.DeleteAttachment, pb.DeleteAttachmentRequest(attachment_id=attachment_id)
        )
        if wait:
            request = pb.WatchAttachmentRequest(attachment_id=attachment_id)
            what = f"Attachment {attachment_id!r} was not taken away"
            until_deleted(at, at.client.attachments.WatchAttachment, request, timeout_s, what)


command.add_command(login)


def _wait_ready(at: Session, attachment_id: str, timeout_s: float) -> pb.Attachment:
    narrate = Narrator()

    def done(answer: pb.WatchAttachmentResponse) -> bool:
        if answer.deleted or answer.attachment.state == r.ATTACHMENT_STATE_DETACHING:
            raise NotFound("NOT_FOUND", f"Attachment {attachment_id!r} is deleted.")
        return answer.attachment.state == r.ATTACHMENT_STATE_READY

    def show_it(answer: pb.WatchAttachmentResponse) -> None:
        if answer.attachment.state == r.ATTACHMENT_STATE_PENDING:
            narrate(f"attachment {attachment_id} is being exported. {answer.attachment.reason}".rstrip())

    request = pb.WatchAttachmentRequest(attachment_id=attachment_id)
    what = f"Attachment {attachment_id!r} did not become READY"
    answer = until(at, at.client.attachments.WatchAttachment, request, done, show_it, timeout_s, what)
    return answer.attachment  # type: ignore[no-any-return]


def _show(attachment: pb.Attachment) -> None:
    facts(
        [
            ("Attachment", attachment.attachment_id),
            ("Volume", attachment.volume_id),
            ("State", state_name(r.AttachmentState.Name(attachment.state))),
            ("Reason", attachment.reason),
            ("Initiator", attachment.initiator_iqn),
            *(("Path", _path(attachment, path)) for path in attachment.paths),
            ("Target", attachment.target_iqn),
            ("LUN", str(attachment.lun)),
            ("CHAP user", attachment.chap_user),
            ("CHAP secret", attachment.chap_secret),
            ("Created", moment(attachment.create_time)),
        ]
    )
    for line in how_to_log_in(attachment):
        click.echo(line)


def _path(attachment: pb.Attachment, path: pb.AttachmentPath) -> str:
    kind = "active" if path == attachment.paths[0] else "standby"
    return f"{path.portal} ({kind}, {'ready' if path.ready else 'not ready yet'})"
