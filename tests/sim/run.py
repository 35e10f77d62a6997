"""`make sim`: runs the package beside it (world/__init__.py says what it is)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("world", run_name="__main__", alter_sys=True)
