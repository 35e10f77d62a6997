"""Which initiators are logged in, from what LIO says of an ACL: pure.

`acls/<initiator>/info` (iscsi_target_configfs.c, lio_target_nacl_info_show) is either one line that says that
there is no session, or several, among them

    Session State: TARG_SESS_STATE_LOGGED_IN
    CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN

A session whose connection was lost is kept for a while (FAILED), in case it is reinstated; and one whose
initiator is cut off looks well until its answer to a NOP-In is overdue (NOPIN_S, NOPIN_RESPONSE_S).
"""

import re

_SESSION = re.compile(r"Session State: (\w+)")
_CONNECTION = re.compile(r"Connection State: (\w+)")
NOPIN_S = 3
"""LIO asks an initiator that is silent for so long, and gives it the next number of seconds to answer."""
NOPIN_RESPONSE_S = 5


def logged_in(info: str) -> bool:
    """Whether the initiator has a session with a connection that works."""
    session = _SESSION.search(info)
    connections = _CONNECTION.findall(info)
    return (
        session is not None
        and session.group(1) == "TARG_SESS_STATE_LOGGED_IN"
        and "TARG_CONN_STATE_LOGGED_IN" in connections
    )
