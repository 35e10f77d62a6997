"""Swift's configuration files, and the script that builds its rings."""

from collections.abc import Mapping
from pathlib import Path

COMMON = """\
[swift-hash]
swift_hash_path_prefix = holdfast
swift_hash_path_suffix = lab

[storage-policy:0]
name = only
default = yes

[swift-constraints]
max_header_size = 32768
"""

# The order of the filters matters: s3api before tempauth, both before the large-object filters.
_PIPELINE = (
    "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth slo dlo symlink"
    " versioned_writes proxy-server"
)


def proxy(
    folder: Path,
    address: str,
    port: int,
    access_key: str,
    secret_key: str,
    region: str,
    request_log_port: int = 0,
) -> str:
    """The proxy's configuration: one account, whose user may do everything in it.

    Args:
        request_log_port: a UDP port of loopback that is sent a line for every request; 0: none is.
    """
    account, user = access_key.split(":")
    pipeline = f"proxy-logging {_PIPELINE}" if request_log_port else _PIPELINE
    logging = ""
    if request_log_port:
        logging = f"""\
[filter:proxy-logging]
use = egg:swift#proxy_logging
access_log_level = INFO
access_log_udp_host = 127.0.0.1
access_log_udp_port = {request_log_port}
"""
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{name}\n{_FILTER_OPTIONS.get(name, '')}\n"
        for name in _PIPELINE.split()
        if name not in ("tempauth", "s3api", "proxy-server")
    )
    return f"""\
[DEFAULT]
bind_ip = {address}
bind_port = {port}
workers = 0
swift_dir = {folder}
log_level = WARNING

[pipeline:main]
pipeline = {pipeline}

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
recoverable_node_timeout = 60

[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret_key} .admin

[filter:s3api]
use = egg:swift#s3api
location = {region}
s3_acl = false

{logging}{filters}"""


_FILTER_OPTIONS = {"versioned_writes": "allow_versioned_writes = true\n"}


def back_end(folder: Path, name: str, port: int) -> str:
    """The configuration of the account, container or object server."""
    return f"""\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/nodes
mount_check = false
log_level = WARNING

[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
{_SERVER_OPTIONS.get(name, "")}"""


# No fallocate: it would reserve space on tmpfs; the drop-cache calls cost and gain nothing here.
_SERVER_OPTIONS = {"object": "fallocate_reserve = 0\nkeep_cache_size = 1073741824\n"}


def ring_script(folder: Path, ports: Mapping[str, int]) -> str:
    """Python for Swift's own interpreter: one ring of one replica for each kind of server."""
    return f"""\
from swift.common.ring import RingBuilder
for name, port in {dict(ports)!r}.items():
    builder = RingBuilder(4, 1, 0)
    builder.add_dev(dict(region=1, zone=1, weight=1.0, ip="127.0.0.1", port=port,
                         replication_ip="127.0.0.1", replication_port=port, device="disk"))
    builder.rebalance()
    builder.get_ring().save({str(folder)!r} + "/" + name + ".ring.gz")
"""
