"""`make sim`: runs the package beside it (world/__init__.py says what it is)."""

import os
import runpy

if __name__ == "__main__":
    # The code that is read decides; where this is set and empty, its twins in C do.
    os.environ.setdefault("HOLDFAST_PLAIN", "1")
    runpy.run_module("world", run_name="__main__", alter_sys=True)
