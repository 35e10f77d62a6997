"""Installs everything that the lab needs on a fresh Debian 12 machine; quick when all is there."""

from collections.abc import Callable

from holdfast.lab.kernel import install_kernel
from holdfast.lab.packages import install_packages
from holdfast.lab.swift_install import install_swift


def install(say: Callable[[str], None] = print) -> bool:
    """Debian packages, the guests' kernel, Swift; True if anything had to be installed.

    Root is needed only where Debian packages are missing. Doing it again does nothing.
    """
    changed = install_packages(say)
    changed |= install_kernel(say)
    changed |= install_swift(say)
    return changed
