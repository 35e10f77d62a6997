"""The guests' kernel: Debian's user-mode Linux from a newer suite, without touching this system.

Debian 12's own user-mode Linux (6.1) panics on processors with a large register state, so the
package is fetched from `forky` with an apt state of its own (lists, cache, sources), together with
the C library that it was linked against. The program re-executes itself, so it cannot be started
through that library's `ld.so`: a copy of it is patched to name its interpreter and library path.
The folder is named by the package's version; forky moves, and any version found is accepted.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.lab.cache import building, cache_dir, locked
from holdfast.lab.errors import LabError

_SUITE = "forky"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DEFAULT_MIRROR = "http://deb.debian.org/debian"


@dataclass(frozen=True)
class Kernel:
    """A user-mode Linux that is ready to run."""

    folder: Path
    program: Path
    modules: Path  # holds lib/modules/<release>/

    @property
    def release(self) -> str:
        return next(iter((self.modules / "lib/modules").iterdir())).name


def find_kernel() -> Kernel | None:
    """The newest installed kernel of the cache, or None."""
    folders = [f for f in cache_dir().glob("uml-*") if (f / "linux.uml").exists()]
    if not folders:
        return None
    return _kernel(max(folders, key=lambda folder: _version_key(folder.name)))


def need_kernel() -> Kernel:
    """The installed kernel; LabError if there is none."""
    kernel = find_kernel()
    if kernel is None:
        raise LabError("the guests' kernel is not installed: run 'holdfast-lab install'")
    return kernel


def install_kernel(say: Callable[[str], None]) -> bool:
    """Fetch the kernel if there is none; True if it was fetched."""
    if find_kernel():
        return False
    cache = cache_dir()
    with locked(cache):
        if find_kernel():
            return False
        say(f"fetching user-mode Linux from Debian {_SUITE} (about 40 MB)")
        with building(cache) as work:
            final = cache / f"uml-{_download(work)}"
            _assemble(work, final).rename(final)
    return True


def _kernel(folder: Path) -> Kernel:
    return Kernel(folder=folder, program=folder / "linux.uml", modules=folder / "modules")


def _version_key(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _download(work: Path) -> str:
    """Fetch both packages into `work`; the version of user-mode-linux."""
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (work / name).mkdir(parents=True)
    source = f"deb [signed-by={_KEYRING}] {_mirror()} {_SUITE} main\n"
    (work / "sources.list").write_text(source)
    options = [
        f"Dir::Etc::sourcelist={work}/sources.list",
        f"Dir::Etc::sourceparts={work}/parts",
        f"Dir::State::lists={work}/lists",
        f"Dir::Cache={work}/cache",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
        "Acquire::Retries=3",
    ]
    apt = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    _run([*apt, "update"], work, f"reading the package list of {_SUITE} from {_mirror()}")
    _run([*apt, "download", "user-mode-linux", "libc6"], work, "downloading user-mode-linux")
    package = next(work.glob("user-mode-linux_*.deb"))
    return package.name.split("_")[1]


def _assemble(work: Path, final: Path) -> Path:
    """Unpack, patch and index what was downloaded; the folder that is to be renamed to `final`."""
    for package in work.glob("*.deb"):
        _run(["dpkg", "-x", str(package), "unpacked"], work, f"unpacking {package.name}")
    unpacked, made = work / "unpacked", work / "made"
    loader = next(unpacked.rglob("ld-linux-x86-64.so.2"), None)
    program = next((p for p in unpacked.rglob("linux*") if p.parent.name == "bin"), None)
    trees = [p for p in unpacked.rglob("modules/*") if (p / "kernel").is_dir()]
    if loader is None or program is None or not trees:
        raise LabError(f"Debian {_SUITE}'s user-mode-linux is laid out in a new way: {unpacked}")
    libraries = loader.resolve().parent
    made.mkdir()
    shutil.copytree(libraries, made / "libc", symlinks=True)
    shutil.copy2(program, made / "linux.uml")
    shutil.copytree(trees[0], made / "modules/lib/modules" / trees[0].name, symlinks=True)
    _run(["depmod", "-b", str(made / "modules"), trees[0].name], work, "indexing the modules")
    patch = ["patchelf", "--set-interpreter", f"{final}/libc/{loader.name}"]
    patch += ["--set-rpath", f"{final}/libc", str(made / "linux.uml")]
    _run(patch, work, "patching linux.uml")
    return made


def _mirror() -> str:
    """The mirror that this system itself installs Debian's main archive from."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for path in files:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        found = re.search(
            r"^(?:URIs:|deb\s(?:\[[^]]*\]\s)?)\s*(\S+/debian)/?(?:\s|$)", path.read_text(), re.M
        )
        if found:
            return found[1]
    return _DEFAULT_MIRROR


def _run(words: list[str], folder: Path, doing: str) -> None:
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise LabError(f"{doing}: no '{words[0]}' here; run 'holdfast-lab install'") from None
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise LabError(f"{doing} failed (is the mirror reachable?):\n{tail}")
