"""A real etcd for the run, and on it what holdfast.metadata.fixtures gives."""

from holdfast.lab.fixtures import etcd_server, installed, local_host
from holdfast.metadata.fixtures import authority, etcd, make_host, metadata, two_hosts

__all__ = [
    "authority",
    "etcd",
    "etcd_server",
    "installed",
    "local_host",
    "make_host",
    "metadata",
    "two_hosts",
]
