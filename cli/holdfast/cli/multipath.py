"""What makes a failover invisible to a Linux initiator: several paths, and little patience with a dead one.

Without these Linux waits 120 s for a dead host before it tries another path. multipathd wants one setting a
line, and takes hardware_handler below `device` only.
"""

from collections.abc import Sequence

DEFAULTS = (
    ("find_multipaths", "no"),
    ("user_friendly_names", "no"),
    ("polling_interval", "1"),
    ("max_polling_interval", "2"),
)
DEVICE = (
    ("path_grouping_policy", "group_by_prio"),
    ("prio", "alua"),
    ("hardware_handler", '"0"'),
    ("path_checker", "tur"),
    ("path_selector", '"service-time 0"'),
    ("no_path_retry", "queue"),
    ("failback", "immediate"),
    ("fast_io_fail_tmo", "2"),
)
ISCSID = (
    ("node.session.timeo.replacement_timeout", "2"),
    ("node.conn[0].timeo.noop_out_interval", "1"),
    ("node.conn[0].timeo.noop_out_timeout", "1"),
    ("node.conn[0].timeo.login_timeout", "5"),
)


def multipath_conf(vendor: str = "HOLDFAST", product: str = "VOLUME") -> str:
    """/etc/multipath.conf of a compute host that has no other; `vendor`, `product`: regular expressions."""
    device = _lines((("vendor", f'"{vendor}"'), ("product", f'"{product}"'), *DEVICE), 8)
    return f"defaults {{\n{_lines(DEFAULTS, 4)}}}\ndevices {{\n    device {{\n{device}    }}\n}}\n"


def iscsid_settings() -> dict[str, str]:
    """What iscsiadm is to set for each node, beside CHAP: only together with multipath.

    Alone, a disk would report errors after two seconds instead of waiting for its host.
    """
    return dict(ISCSID)


def _lines(settings: Sequence[tuple[str, str]], indent: int) -> str:
    return "".join(f"{' ' * indent}{name} {value}\n" for name, value in settings)
