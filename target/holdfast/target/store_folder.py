"""A replica's folder as a whole: whether there is one, and taking it away."""

from pathlib import Path


def half_removed(path: Path) -> Path:
    """Where a store lies while it is removed."""
    return path.with_name(path.name + ".removed")


def anything_at(path: Path) -> bool:
    """A store, or what is left of one."""
    return path.exists() or half_removed(path).exists()


def remove_tree(path: Path) -> None:
    """Rename first: a store that is half removed must not look like a store. Blocks; done again, goes on."""
    import shutil  # With compressors, half a MiB of a process: few workers ever remove anything.

    gone = half_removed(path)
    if gone.exists():
        shutil.rmtree(gone)
    if path.exists():
        path.rename(gone)
        shutil.rmtree(gone)
