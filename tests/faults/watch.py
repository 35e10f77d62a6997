"""Every value that a record has had while a case played, from etcdctl's watch."""

import json
from pathlib import Path
from typing import Any

from holdfast.lab.cluster import Cluster


class Watch:
    """Best effort: what changes while etcd is down is seen when it is back."""

    def __init__(self, cluster: Cluster, key: str, log: Path) -> None:
        self._log = log
        words = cluster.etcdctl("watch", f"/holdfast/v1/{key}")
        with open(log, "wb") as file:
            environment = cluster.etcdctl_environment()
            self._process = cluster.lab.host_popen(
                words, name="watch", stdout=file, stderr=file, env=environment
            )

    def end(self) -> list[dict[str, Any]]:
        self._process.kill()
        return self.seen()

    def marked_bytes(self) -> int:
        """Of a volume: the most that any of its hosts was said to lack, up to now."""
        return max((int(one.get("sync_total_bytes", 0)) for one in self.seen()), default=0)

    def seen(self) -> list[dict[str, Any]]:
        """Up to now."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
