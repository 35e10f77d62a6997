"""Pages name what there is: files everywhere; docs/invariants.md also code, tests, faults and targets."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPONENTS = ("base", "cli", "lab", "metadata", "replicator", "snapshotter", "target")
SOURCES = [path for folder in (*COMPONENTS, "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / name / "README.md" for name in COMPONENTS if (ROOT / name / "README.md").exists()),
    *ROOT.glob("tests/*/README.md"),
    *ROOT.glob("docs/**/*.md"),
]
INVARIANTS = (ROOT / "docs" / "invariants.md").read_text()


@cache
def names_in(path: Path) -> frozenset[str]:
    """What is defined there; of what is defined in a class also `Class.name`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        found.update(_named(node))
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}.{name}" for inner in ast.walk(node) for name in _named(inner))
    return frozenset(found)


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id
        elif isinstance(target, ast.Attribute):
            yield target.attr


def files(name: str) -> list[Path]:
    """Those that a page may mean by `name.py`, or by a path that leaves out the package's own folders."""
    folder, _, last = name.rpartition("/")
    return [path for path in SOURCES if path.name == last and folder in str(path.parent.relative_to(ROOT))]


def is_defined(name: str) -> bool:
    """Of `name`, `Class.name` or `module.name`."""
    module, _, rest = name.partition(".")
    if rest and module.islower():
        return any(rest in names_in(path) for path in files(f"{module}.py"))
    return any(name in names_in(path) for path in SOURCES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`([\w/]+\.py)`", page.read_text())
    assert [name for name in named if not files(name)] == []


@pytest.mark.parametrize("component", ["replicator", "target"])
def test_a_component_names_its_modules(component: str) -> None:
    """Those whose README has a table of them."""
    page = (ROOT / component / "README.md").read_text()
    named = {name.removesuffix(".py") for name in re.findall(r"`(\w+(?:\.py)?)`", page)}
    modules = {path.stem for path in (ROOT / component / "holdfast").rglob("*.py")} - {"__init__"}
    assert sorted(modules - named) == []


def test_invariants_name_code_that_is_there() -> None:
    named = re.findall(r"`([A-Za-z_]\w*(?:\.\w+)?)`", INVARIANTS)
    names = {name for name in named if not name.endswith(".py")}
    assert len(names) > 30
    assert sorted(name for name in names if not is_defined(name)) == []


def test_invariants_name_code_that_is_in_the_file_before_it() -> None:
    found = re.findall(r"`(\w+\.py)` \(((?:`\w+`(?:, )?)+)\)", INVARIANTS)
    assert found
    for file, names in found:
        wanted = set(re.findall(r"`(\w+)`", names))
        assert any(wanted <= names_in(path) for path in files(file)), file


def test_invariants_name_tests_that_are_there() -> None:
    found = re.findall(r"`(test_\w+\.py)`: ((?:\*[\w ]+\*(?:, )?)+)", INVARIANTS)
    assert found
    for file, words in found:
        tests = [name for path in files(file) for name in names_in(path) if name.startswith("test_")]
        for phrase in re.findall(r"\*([\w ]+)\*", words):
            assert any(phrase.replace(" ", "_") in name for name in tests), f"{file}: {phrase}"


def test_invariants_name_faults_and_targets_that_are_there() -> None:
    cases = (ROOT / "tests" / "faults" / "cases.py").read_text()
    names = re.findall(r"\"([a-z]+(?:-[a-z]+)+)\"", cases)
    # One of a pair: the name is put together from the host's and the fault's.
    names += [f"{host}-{name}" for host in ("primary", "mirror") for name in names]
    wanted = re.findall(r"`([a-z*]+(?:-[a-z*]+)+)`", INVARIANTS)
    assert [one for one in wanted if not any(fnmatch(name, one) for name in names)] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)`", INVARIANTS)) <= set(targets)
