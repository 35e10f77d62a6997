"""`holdfast-worker` itself, with a ring that it inherited (shared_ring.py) in place of a UIO device.

ring_worker.py MEMORY_FD,EVENT_FD,SIGNAL_FD [holdfast-worker's arguments]
"""

import os
import sys

from shared_ring import SharedUio

from holdfast.target import worker_main

fds = [int(word) for word in sys.argv.pop(1).split(",")]
profile_path = os.environ.get("HOLDFAST_BENCH_PROFILE")
if profile_path:
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
status = worker_main.main(lambda _configfs, _name: SharedUio(*fds))
if profile_path:
    profile.disable()
    profile.dump_stats(profile_path)
sys.exit(status)
