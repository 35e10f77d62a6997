"""Builds the C twins of a few innermost loops into the package, where there is a compiler.

Without one, or without Python's headers, the package is built all the same: each twin has its Python form,
which does the same and is what tests compare it to (holdfast/base/twins.py).
"""

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TWINS = (
    "base/holdfast/base/nbd/_wire.c",
    "replicator/holdfast/replicator/_files.c",
    "replicator/holdfast/replicator/_turns.c",
    "target/holdfast/target/_ring.c",
)
HEADERS = "base/holdfast/base"


class TwinsHook(BuildHookInterface):  # type: ignore[type-arg]
    """For wheels and for editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        built = [build(root, root / source) for source in TWINS]
        if any(built):
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def twins(root: Path) -> ModuleType:
    """holdfast.base.twins, which is not installed yet."""
    spec = importlib.util.spec_from_file_location("twins", root / HEADERS / "twins.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(root: Path, source: Path) -> bool:
    """Compile `source` to a module beside it; False, and none is there, if that cannot be done."""
    module = source.with_name(source.stem + sysconfig.get_config_var("EXT_SUFFIX"))
    fresh = module.with_suffix(f".{os.getpid()}")
    module.unlink(missing_ok=True)
    words = [
        *shlex.split(sysconfig.get_config_var("CC") or "cc"),
        *("-O2", "-g", "-fwrapv", "-fPIC", "-shared", "-Wall", "-Wextra", "-fvisibility=hidden"),
        f'-DHOLDFAST_SOURCE="{twins(root).source_of(source)}"',
        *("-I", sysconfig.get_path("include"), "-I", str(root / HEADERS)),
        *(str(source), "-o", str(fresh)),
    ]
    try:
        subprocess.run(words, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{source.name} is left out, its Python form serves: {error}", file=sys.stderr)
        fresh.unlink(missing_ok=True)
        return False
    fresh.rename(module)
    return True
