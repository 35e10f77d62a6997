"""etcd, an authority and the service, from the metadata service's own fixtures."""

from holdfast.metadata.fixtures import authority, etcd, make_host, metadata, two_hosts

__all__ = ["authority", "etcd", "make_host", "metadata", "two_hosts"]
