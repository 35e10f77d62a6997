"""The iscsiadm commands of an attachment: to paste, or for attachment_login.py to run. Pure.

Two ways, which must not be mixed. With multipath: every path, each given up after seconds, so that I/O goes
to another one. Without: the active path alone, with the patience that Linux has by default; I/O waits for
its host. A disk without multipath whose path is given up after two seconds reports errors.
"""

import shlex

from holdfast.api.attachment.v1.attachment_pb2 import Attachment
from holdfast.cli.multipath import iscsid_settings, multipath_conf


def how_to_log_in(attachment: Attachment) -> list[str]:
    """Lines for a shell, and comments that say when to use which."""
    if len(attachment.paths) < 2:
        return ["", "# As root on the initiator:", *commands(attachment, with_multipath=False)]
    return [
        "",
        "# As root on the initiator. Either WITH multipath: a lost host is a pause of seconds.",
        "# multipathd must run, with this in /etc/multipath.conf, before the first login:",
        *(f"#     {line}" for line in multipath_conf().splitlines()),
        *commands(attachment, with_multipath=True),
        "",
        "# Or WITHOUT multipath: one path, and I/O waits for its host. Never with the timeouts above: the",
        "# disk would report errors after two seconds.",
        *(f"#     {line.removeprefix('# ')}" for line in commands(attachment, with_multipath=False)),
    ]


def commands(attachment: Attachment, *, with_multipath: bool) -> list[str]:
    """What `steps` has, for a shell; and, as a comment, how to log out. For each portal that is used."""
    lines = []
    for portal in portals(attachment, with_multipath=with_multipath):
        lines += [shlex.join(step) for step in steps(attachment, portal, with_multipath=with_multipath)]
        lines.append(f"# and later: {shlex.join([*_node(attachment, portal), '--logout'])}")
    return lines


def portals(attachment: Attachment, *, with_multipath: bool) -> list[str]:
    """Where to log in: everywhere, or at the active path's."""
    found = [path.portal for path in attachment.paths]
    return found if with_multipath else found[:1]


def steps(attachment: Attachment, portal: str, *, with_multipath: bool) -> list[list[str]]:
    """Make the node record anew, with Linux's own timeouts; set CHAP; log in. Done again, the same."""
    settings = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": attachment.chap_user,
        "node.session.auth.password": attachment.chap_secret,
    }
    if with_multipath:
        settings |= iscsid_settings()
    node = _node(attachment, portal)
    updates = [[*node, "-o", "update", "-n", name, "-v", value] for name, value in settings.items()]
    return [[*node, "-o", "new"], *updates, [*node, "--login"]]


def _node(attachment: Attachment, portal: str) -> list[str]:
    return ["iscsiadm", "-m", "node", "-T", attachment.target_iqn, "-p", portal]
