"""The iscsiadm commands of an attachment, ready to paste. Pure."""

import shlex

from holdfast.api.attachment.v1.attachment_pb2 import Attachment


def commands(attachment: Attachment) -> list[str]:
    """Make the node record, set CHAP, log in; and, as a comment, log out. For each portal."""
    lines = []
    for portal in attachment.portals:
        node = ["iscsiadm", "-m", "node", "-T", attachment.target_iqn, "-p", portal]
        settings = [
            ("node.session.auth.authmethod", "CHAP"),
            ("node.session.auth.username", attachment.chap_user),
            ("node.session.auth.password", attachment.chap_secret),
        ]
        steps = [["-o", "new"]]
        steps += [["-o", "update", "-n", name, "-v", value] for name, value in settings]
        steps.append(["--login"])
        lines += [shlex.join(node + step) for step in steps]
        lines.append(f"# and later: {shlex.join([*node, '--logout'])}")
    return lines
