"""When a host may throw away its copy of a volume, to make a new one: pure.

The set names a host and its boot, not the copy. So a copy that is thrown away must not be one that is about
to join: its primary may have asked for that just before the copy failed, and the set would then hold a host
that has nothing. Hence, in this order:

    the copy is bad, and its host is not in the set (`is_bad`)
    its agent raises the epoch (`renounce`): what was asked for in an earlier one is refused from then on
    its agent reads that epoch, in which the host still is not in the set: the copy is thrown away

A copy that is bad is attached in no later epoch: it refuses every session. A worker that ends meanwhile may
find the copy good again, so all begins anew then.
"""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.target.control import Observed

REBUILT = frozenset(("STORE_DAMAGED", "STORE_UNUSABLE"))
"""Why a store cannot be opened, where a new one may be made instead of it. Not WRONG_STORE: whoever put
another volume there must say what it was.
"""


def is_bad(assignment: r.Assignment | None, observed: Observed | None) -> bool:
    """The copy here is not to be trusted, and this host is not in the set, under any boot."""
    if assignment is None or observed is None:
        return False
    outside = assignment.role == r.ROLE_JOINER and not assignment.boot_id
    return outside and (observed.suspect or observed.reason in REBUILT)


def may_throw_away(assignment: r.Assignment, observed: Observed | None, renounced_epoch: int) -> bool:
    """`renounced_epoch`: the epoch that was ended for this, surely, since the copy was found bad; 0: none."""
    return is_bad(assignment, observed) and 0 < renounced_epoch < assignment.epoch
