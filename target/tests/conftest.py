"""What holdfast.metadata.fixtures gives, on the run's etcd."""

from holdfast.metadata.fixtures import authority, etcd, metadata

__all__ = ["authority", "etcd", "metadata"]
