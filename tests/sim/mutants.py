"""`make sim-mutants`: world/mutants.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("world.mutants", run_name="__main__", alter_sys=True)
