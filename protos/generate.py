"""Generate the Python modules beside the protos, or (`--check`) compare them with a fresh generation.

Run by `make protos` and `make check` inside a virtual environment that holds protos/requirements.txt:
the toolchain is older than the runtime on purpose, because code made by a newer toolchain fails at
import on an older protobuf runtime. A generation that fails, or writes nothing, fails the check.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def sources() -> list[Path]:
    return sorted((HERE / "holdfast").rglob("*.proto"))


def generate(into: Path) -> None:
    """Run protoc over every proto, writing below `into`. Raises CalledProcessError."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}"]
    command += [f"--{kind}={into}" for kind in ("python_out", "grpc_python_out", "mypy_out")]
    command += [f"--mypy_grpc_out={into}"]
    command += [str(path.relative_to(HERE)) for path in sources()]
    plugins = str(Path(sys.executable).parent)
    search_path = os.pathsep.join([plugins, os.environ.get("PATH", "")])
    subprocess.run(command, check=True, cwd=HERE, env={**os.environ, "PATH": search_path})


def drop_empty_services(root: Path) -> None:
    """protoc writes an empty *_pb2_grpc.py for a proto without a service; nobody imports it."""
    for proto in sources():
        if "\nservice " not in proto.read_text():
            base = root / proto.relative_to(HERE).with_suffix("")
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                base.with_name(base.name + suffix).unlink(missing_ok=True)


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for pattern in GENERATED for path in root.rglob(pattern)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        fresh_root = Path(scratch)
        generate(fresh_root)
        drop_empty_services(fresh_root)
        fresh, kept = contents(fresh_root), contents(HERE)
    if len(fresh) < 2 * len(sources()):
        print(f"protoc wrote {len(fresh)} files for {len(sources())} protos", file=sys.stderr)
        return 1
    if check:
        stale = sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))
        for name in stale:
            print(f"{name} is not what its proto generates: run `make protos`", file=sys.stderr)
        return 1 if stale else 0
    for name in kept.keys() - fresh.keys():
        (HERE / name).unlink()
    for name, text in fresh.items():
        (HERE / name).write_text(text)
    print(f"wrote {len(fresh)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
