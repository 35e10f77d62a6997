"""What a compute host does with an attachment: log in, find the disk, log out. Real iscsiadm, in a guest."""

from dataclasses import dataclass
from typing import Any

from holdfast.lab.guest import Guest

LOGIN_REFUSED = 24
"""iscsiadm's status for a login that the target did not authorise."""
NOTHING_FOUND = 21
"""iscsiadm's status when there is nothing to list or to log in to."""
_WAIT_S = 60


@dataclass(frozen=True)
class Login:
    """What an attachment's owner is told, as the gRPC API says it."""

    iqn: str
    portal: str
    lun: int
    user: str
    secret: str

    @classmethod
    def of(cls, attachment: dict[str, Any]) -> "Login":
        return cls.of_all(attachment)[0]

    @classmethod
    def of_all(cls, attachment: dict[str, Any]) -> "list[Login]":
        """One for each portal: the same unit by another way."""
        return [
            cls(
                attachment["target_iqn"],
                path["portal"],
                int(attachment.get("lun", 0)),
                attachment["chap_user"],
                attachment["chap_secret"],
            )
            for path in attachment["paths"]
        ]

    @property
    def device(self) -> str:
        return f"/dev/disk/by-path/ip-{self.portal}-iscsi-{self.iqn}-lun-{self.lun}"


def log_in(guest: Guest, login: Login) -> str:
    """Log in with the secret; the path of the disk. Raises CommandFailed."""
    make_node(guest, login)
    guest.run(node(login, "--login"), timeout_s=_WAIT_S)
    guest.run(["udevadm", "wait", f"--timeout={_WAIT_S}", login.device], timeout_s=_WAIT_S + 5)
    return login.device


def log_out(guest: Guest, login: Login) -> None:
    guest.run(node(login, "--logout"), timeout_s=_WAIT_S)


def refused_login(guest: Guest, login: Login, with_secret: bool) -> int:
    """Try to log in where it must fail; iscsiadm's status. Raises AssertionError if it is let in."""
    make_node(guest, login, with_secret)
    done = guest.run(node(login, "--login"), check=False, timeout_s=_WAIT_S)
    guest.run(node(login, "-o", "delete"), check=False)
    if done.returncode == 0:
        raise AssertionError(f"{guest.name} was let in to {login.iqn}")
    return done.returncode


def discover(guest: Guest, portal: str) -> str:
    """What SendTargets lists to this host: normally nothing."""
    words = ["iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", portal]
    return guest.run(words, check=False, timeout_s=_WAIT_S).stdout.strip()


def make_node(guest: Guest, login: Login, with_secret: bool = True) -> None:
    guest.run(node(login, "-o", "new"))
    if with_secret:
        settings = {"authmethod": "CHAP", "username": login.user, "password": login.secret}
        for name, value in settings.items():
            guest.run(node(login, "-o", "update", "-n", f"node.session.auth.{name}", "-v", value))


def node(login: Login, *words: str) -> list[str]:
    return ["iscsiadm", "-m", "node", "-T", login.iqn, "-p", login.portal, *words]
