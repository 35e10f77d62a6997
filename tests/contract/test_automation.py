"""What automation that watches etcd relies on, seen with a client that is not ours (etcd3)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys
from holdfast.metadata.etcd import Etcd, put
from holdfast.metadata.records import encode

WATCHER = Path(__file__).with_name("watch_with_etcd3.py")


def test_etcd3_sees_every_change_as_json(etcd: Etcd, etcd_server: Any) -> None:
    watcher = subprocess.Popen(
        [sys.executable, str(WATCHER), etcd_server.address, str(etcd_server.port), keys.PREFIX, "3"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )
    assert watcher.stdout is not None
    try:
        assert watcher.stdout.readline() == "ready\n"
        for epoch in (1, 2, 3):
            record = r.ReplicaRecord(volume_uid="0" * 24, epoch=epoch, primary_host_id="a")
            etcd.transact([], [put(keys.replica("0" * 24), encode(record))])
        seen = [json.loads(line) for line in watcher.stdout]
        assert watcher.wait(60) == 0
    finally:
        watcher.kill()
    assert [one["key"] for one in seen] == [keys.replica("0" * 24)] * 3
    # Numbers of 64 bits are strings, as proto's canonical JSON has them.
    assert [one["value"]["epoch"] for one in seen] == ["1", "2", "3"]
