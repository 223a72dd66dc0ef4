"""Which addresses a tool's requests may go to: public ones, and those the operator allows."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) → addresses, best first

# IANA's special-purpose registries, in full here: what `ipaddress` calls global differs between
# versions of Python. 168.63.129.16 is public, and Azure's host to its guests.
_NOT_PUBLIC = tuple(
    map(
        IPv4Network,
        """
        0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12
        192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16
        192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
        """.split(),
    )
)
# Of IPv6 only what is handed out to networks; so neither mapped IPv4, NAT64, ULA, link-local nor
# multicast. Within it: IETF protocols (Teredo, ORCHID), documentation, 6to4, AS112.
_UNICAST = IPv6Network("2000::/3")
_NOT_UNICAST = tuple(
    map(IPv6Network, "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split())
)


def is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC)
    return address in _UNICAST and not any(address in network for network in _NOT_UNICAST)


def is_allowed(address: Address, allow: Sequence[Network]) -> bool:
    return is_public(address) or any(address in network for network in allow)


def read_networks(allow: Sequence[str]) -> tuple[Network, ...]:
    """From "10.0.0.0/8", "::1", …. Raises ValueError."""
    return tuple(ip_network(network) for network in allow)


def read_address(text: str) -> Address:
    """Raises ValueError. Of a link-local address, without its interface."""
    return ip_address(text.partition("%")[0])


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's answer. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
