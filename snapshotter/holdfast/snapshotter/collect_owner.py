"""Whose bucket it is. Objects that no record leads to are garbage only to the cluster that wrote them.

A snapshotter that is started with another cluster's bucket, or with an etcd that is new, would find nothing
in etcd that leads to anything there. So each cluster that collects has an object of its own, named with the
uid that its etcd has; where there is another's, nothing is deleted. Of two that begin at the same moment both
see the other's, and neither goes on.
"""

from holdfast.base.errors import Unavailable
from holdfast.snapshotter.objects import ObjectStore

PREFIX = "collection/cluster-"


def claim(store: ObjectStore, cluster_uid: str) -> None:
    """Raises Unavailable ANOTHERS_BUCKET, or that of the store."""
    own = PREFIX + cluster_uid
    if all(one.name != own for one in store.list(PREFIX)):
        store.put(own, b"The objects here are collected by the cluster of this name.\n")
    found = [one.name for one in store.list(PREFIX)]
    others = [name for name in found if name != own]
    if others:
        raise Unavailable(
            "ANOTHERS_BUCKET",
            f"Nothing is deleted: object {others[0]} says that another cluster's objects are here, and this "
            f"is cluster {cluster_uid}. Give each a prefix of its own; if that one is no more, and nothing "
            "of it is wanted, delete that object.",
        )
    if not found:
        raise Unavailable(
            "OBJECT_STORE_LAGS", f"The object store took object {own} and does not list it yet."
        )
