"""The iscsiadm commands of an attachment, ready to paste. Pure."""

import shlex

from holdfast.api.attachment.v1.attachment_pb2 import Attachment
from holdfast.cli.multipath import ISCSID


def commands(attachment: Attachment) -> list[str]:
    """Make the node record, set CHAP, log in; and, as a comment, log out. For each portal; where there are
    several, with the settings that let multipath leave a dead one soon (alone, they would give up too soon).
    """
    lines = []
    patience = ISCSID if len(attachment.portals) > 1 else ()
    for portal in attachment.portals:
        node = ["iscsiadm", "-m", "node", "-T", attachment.target_iqn, "-p", portal]
        settings = [
            ("node.session.auth.authmethod", "CHAP"),
            ("node.session.auth.username", attachment.chap_user),
            ("node.session.auth.password", attachment.chap_secret),
        ]
        steps = [["-o", "new"]]
        steps += [["-o", "update", "-n", name, "-v", value] for name, value in (*settings, *patience)]
        steps.append(["--login"])
        lines += [shlex.join(node + step) for step in steps]
        lines.append(f"# and later: {shlex.join([*node, '--logout'])}")
    return lines
