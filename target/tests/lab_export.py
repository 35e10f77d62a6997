"""Makes one volume's export what it should be, inside a guest. Prints the backstore's directory.

Arguments: JSON of the Export's fields, or of {"volume_uid": ...} alone to remove it; "served" or "unserved".
"""

import json
import sys

from holdfast.target.lio import Lio
from holdfast.target.lio_export import Acl, Export


def main() -> None:
    fields = json.loads(sys.argv[1])
    uid = fields["volume_uid"]
    wanted = None
    if len(fields) > 1:
        fields["acls"] = tuple(Acl(**acl) for acl in fields["acls"])
        wanted = Export(**fields)
    lio = Lio()
    lio.prepare()
    lio.converge(uid, wanted, sys.argv[2] == "served")
    print(lio.backstore(uid))


main()
