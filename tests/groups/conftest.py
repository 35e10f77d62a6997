"""The stories' files are a program's, beside each other: tests import them as it does."""

import sys
from pathlib import Path

from holdfast.metadata.fixtures import authority, etcd, make_host, metadata, two_hosts

__all__ = ["authority", "etcd", "make_host", "metadata", "two_hosts"]

sys.path.insert(0, str(Path(__file__).parent))
