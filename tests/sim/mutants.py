"""`make sim-mutants`: world/mutants.py."""

import os
import runpy

if __name__ == "__main__":
    # The code that is read decides; where this is set and empty, its twins in C do.
    os.environ.setdefault("HOLDFAST_PLAIN", "1")
    runpy.run_module("world.mutants", run_name="__main__", alter_sys=True)
