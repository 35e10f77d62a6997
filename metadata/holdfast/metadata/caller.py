"""Who is calling: the verified client certificate, and nothing that the request says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import grpc

from holdfast.base.errors import Denied, Unauthenticated
from holdfast.metadata.lookups import is_name
from holdfast.metadata.pki import subject_of


@dataclass(frozen=True)
class Caller:
    name: str
    operator: bool

    def need_operator(self) -> None:
        if not self.operator:
            raise Denied("OPERATOR_ONLY", "Only an operator may do this: use an operator's certificate.")


USERS = ("user", "operator")
SERVICES = ("service",)


def caller_of(context: grpc.ServicerContext, roles: tuple[str, ...] = USERS) -> Caller:
    """Who calls, in one of these roles. Raises Unauthenticated NO_CERTIFICATE or BAD_CERTIFICATE."""
    # The published types say one value each; it is a list.
    properties = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
    pems = properties.get("x509_pem_cert", [])
    if len(pems) != 1:
        raise Unauthenticated("NO_CERTIFICATE", f"Connect with a {roles[0]}'s client certificate.")
    return _identify(bytes(pems[0]), roles)


@lru_cache(maxsize=4096)
def _identify(pem: bytes, roles: tuple[str, ...]) -> Caller:
    name, role = subject_of(pem)
    if role not in roles or not is_name(name):
        allowed = " or ".join(map(repr, roles))
        raise Unauthenticated(
            "BAD_CERTIFICATE",
            f"The certificate's subject (CN {name!r}, OU {role!r}) is no {roles[0]}'s: OU must be {allowed}, "
            f"and CN a {roles[0]}'s name.",
        )
    return Caller(name, role == "operator")
