"""Who has which address in a lab: the host is .1, the guests are .11 onwards in their order."""

import ipaddress
from dataclasses import dataclass

from holdfast.lab.errors import LabError

MANAGEMENT_HOST = "169.254.77.1"
MTU_BYTES = 9000
MAX_GUESTS = 200
_FIRST_GUEST = 11


@dataclass(frozen=True)
class Subnet:
    """The data segment's network, at least a /24."""

    network: ipaddress.IPv4Network

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        network = ipaddress.IPv4Network(text)
        if network.num_addresses < 256:
            raise LabError(f"subnet {text} has {network.num_addresses} addresses; give a /24")
        return cls(network)

    @property
    def host(self) -> str:
        return str(self.network[1])

    @property
    def prefix(self) -> int:
        return self.network.prefixlen

    def guest(self, index: int) -> str:
        """The data address of the guest number `index`, counted from 0."""
        return str(self.network[_FIRST_GUEST + index])


def management(index: int) -> str:
    """The address of a guest's agent on the management segment."""
    return f"169.254.77.{_FIRST_GUEST + index}"


def hardware(index: int, segment: int) -> str:
    """A locally administered Ethernet address; segment 0 is data, 1 is management."""
    return f"02:48:46:00:{segment:02x}:{_FIRST_GUEST + index:02x}"
