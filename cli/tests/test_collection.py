"""The collection of objects and the sizes of snapshots, as people see them."""

from collections.abc import Callable

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.cli import failures
from holdfast.metadata import collection_changes, keys
from holdfast.metadata.cas import run
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_users import made_snapshot

from .conftest import Person


def test_status_and_run(person: Callable[..., Person], metadata: RunningMetadata) -> None:
    olga = person("olga", "operator")
    assert "none yet" in olga.types("collection", "status").stdout
    refused = person("alice").types("collection", "run", status=failures.REFUSED)
    assert "[OPERATOR_ONLY]" in refused.stderr
    assert "One is asked for" in olga.types("collection", "run").stdout
    assert olga.json("collection", "run")["request"] == "1", "asked for twice, it is one"
    run(metadata.etcd, lambda draft: collection_changes.begin(draft, "s1", "a" * 24, 1.0))
    assert "RUNNING" in olga.types("collection", "status").stdout
    counts = r.CollectionCounts(freed_objects=3, freed_bytes=3 << 20)
    run(metadata.etcd, lambda draft: collection_changes.finish(draft, counts, "", 2.0))
    shown = olga.types("collection", "status").stdout
    assert "DONE" in shown and "3 objects, 3 MiB" in shown
    run(metadata.etcd, lambda draft: collection_changes.finish(draft, counts, "Object x is lost.", 2.0))
    assert "Object x is lost." in olga.types("collection", "status").stdout


def test_sizes_of_a_snapshot(
    person: Callable[..., Person], metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, client = person("alice"), metadata.client("alice")
    alice.types("volume", "create", "disk", "--size", "8192")
    made_snapshot(metadata, client, "s", "disk")
    assert "Exclusive" not in alice.types("snapshot", "show", "s").stdout
    uid = alice.json("snapshot", "show", "s")["uid"]
    counted = r.SizesRecord(
        snapshot_uid=str(uid), logical_bytes=5 << 20, stored_bytes=3 << 20, exclusive_bytes=1 << 20
    )
    counted.count_time.FromSeconds(1_700_000_000)
    run(metadata.etcd, lambda draft: collection_changes.set_sizes(draft, counted))
    assert metadata.etcd.get(keys.sizes(str(uid))) is not None
    shown = alice.types("snapshot", "show", "s").stdout
    assert "5 MiB that are not zero" in shown and "1 MiB: what deleting it would free" in shown
    assert "1 MiB" in alice.types("snapshot", "list").stdout
    alice.types("grant", "create", "s", "bob")
    assert "Exclusive" not in person("bob").types("snapshot", "show", "s", "--owner", "alice").stdout
