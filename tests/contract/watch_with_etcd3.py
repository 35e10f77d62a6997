"""An etcd client that nobody here wrote, as automation would use it: it prints our keys as JSON lines.

A process of its own: etcd3's generated code needs protobuf's Python implementation, and would clash with
ours in one process. Prints `ready` when it watches, then a line for each put; ends after COUNT of them.
"""

import json
import sys

import etcd3


def main() -> None:
    host, port, prefix, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    client = etcd3.client(host=host, port=port)
    events, cancel = client.watch_prefix(prefix)
    print("ready", flush=True)
    for event in events:
        if event.value:
            print(json.dumps({"key": event.key.decode(), "value": json.loads(event.value)}), flush=True)
            count -= 1
        if count == 0:
            cancel()
            return


if __name__ == "__main__":
    main()
