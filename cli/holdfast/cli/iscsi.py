"""The iscsiadm commands of an attachment: to paste, or for attachment_login.py to run. Pure."""

import shlex

from holdfast.api.attachment.v1.attachment_pb2 import Attachment
from holdfast.cli.multipath import iscsid_settings


def commands(attachment: Attachment) -> list[str]:
    """What `steps` has, for a shell; and, as a comment, how to log out. For each portal."""
    lines = []
    for portal in attachment.portals:
        lines += [shlex.join(step) for step in steps(attachment, portal)]
        lines.append(f"# and later: {shlex.join([*_node(attachment, portal), '--logout'])}")
    return lines


def steps(attachment: Attachment, portal: str) -> list[list[str]]:
    """Make the node record, set CHAP, log in. Done again, the same.

    Where there are several portals, with the settings that let multipath leave a dead one soon; alone,
    they would give up too soon.
    """
    settings = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": attachment.chap_user,
        "node.session.auth.password": attachment.chap_secret,
    }
    if len(attachment.portals) > 1:
        settings |= iscsid_settings()
    node = _node(attachment, portal)
    updates = [[*node, "-o", "update", "-n", name, "-v", value] for name, value in settings.items()]
    return [[*node, "-o", "new"], *updates, [*node, "--login"]]


def _node(attachment: Attachment, portal: str) -> list[str]:
    return ["iscsiadm", "-m", "node", "-T", attachment.target_iqn, "-p", portal]
