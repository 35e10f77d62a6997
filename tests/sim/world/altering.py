"""Planting one known mistake in production's code, before it is imported: for `make sim-mutants`.

A mistake is a piece of source, and what stands there instead. It is planted as the module is loaded, from its
source and never from compiled files; a piece that is not there exactly once is an error, so a mistake that
was not planted is never taken for one that was not found.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from .mistakes import BY_NAME, Mistake

VARIABLE = "HOLDFAST_MISTAKE"


def altered(mistake: Mistake, module: str, source: str) -> str:
    """The source of `module` with the mistake in it. Raises RuntimeError if it cannot be planted."""
    for name, old, new in mistake.changes:
        if name == module:
            found = source.count(old)
            if found != 1:
                raise RuntimeError(f"{mistake.name}: found {found} times in {module}:\n{old}")
            source = source.replace(old, new)
    return source


def check(mistake: Mistake) -> None:
    """Raises RuntimeError or SyntaxError if it cannot be planted."""
    for module in mistake.modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"{mistake.name}: there is no {module}")
        compile(altered(mistake, module, Path(spec.origin).read_text()), spec.origin, "exec")


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, mistake: Mistake) -> None:
        super().__init__(fullname, path)
        self._mistake = mistake

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        source = altered(self._mistake, fullname, self.get_data(path).decode())
        return compile(source, path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mistake: Mistake) -> None:
        self._mistake = mistake

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._mistake.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"there is no {fullname}")
        spec.loader = _Loader(fullname, spec.origin, self._mistake)
        return spec


def plant() -> str:
    """The mistake that the environment names, if any. Before its module is imported."""
    name = os.environ.get(VARIABLE, "")
    if name:
        mistake = BY_NAME[name]
        assert not mistake.modules & sys.modules.keys(), "a module of it is there already"
        sys.meta_path.insert(0, _Finder(mistake))
    return name


planted = plant()
