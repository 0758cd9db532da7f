"""The client's address, behind proxies that are trusted to tell it, and lists of networks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from gatewright import Request

__all__ = ["ClientAddress", "Networks", "parse_address"]

Address = IPv4Address | IPv6Address
_MAPPED: Final = 96  # bits before an IPv4 address within IPv6
_LONGEST: Final = 100
_WITH_PORT: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+):\d+")


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address:
    """An address as proxies write it: with a port, in brackets, an IPv4 one within IPv6.

    Raises:
        ValueError: it is none.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"an address of {len(text)} characters")
    text = text.strip()
    found = _WITH_PORT.fullmatch(text)
    address = ip_address(found[1] or found[2] if found else text)
    if not isinstance(address, IPv6Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))  # an interface's name (`%eth0`) is no part of it


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    """A network; an IPv4 one within IPv6 is what addresses in it are: IPv4.

    Raises:
        ValueError: it is none, or has bits beyond its mask.
    """
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED))


class Networks:
    """Networks that an address may be in."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Take addresses and networks in, `10.0.0.0/8` and `2001:db8::1` for instance.

        Raises:
            ValueError: one is neither, or has bits beyond its mask.
        """
        parsed = [_parse_network(text.strip()) for text in networks]
        self._by_prefix: dict[tuple[int, int], set[int]] = {}
        for network in parsed:
            place = (network.version, network.max_prefixlen - network.prefixlen)
            self._by_prefix.setdefault(place, set()).add(int(network.network_address) >> place[1])

    def __bool__(self) -> bool:
        return bool(self._by_prefix)

    def __contains__(self, address: Address) -> bool:
        version, number = address.version, int(address)
        return any(
            number >> shift in networks for (kind, shift), networks in self._by_prefix.items() if kind == version
        )


class ClientAddress:
    """Tells a request's client: whoever connected to the gateway, or whom the proxies that are trusted name."""

    def __init__(self, trusted: Iterable[str] = (), header: str = "x-forwarded-for") -> None:
        """Make it.

        Args:
            trusted: networks of proxies. Without any, the gateway's own idea counts, which APISIX's `real-ip` and
                Kong's `trusted_ips` may have set.
            header: where proxies append whom they speak for.

        Raises:
            ValueError: see `Networks`.
        """
        self._trusted = Networks(trusted)
        self._header = header.lower()

    def of(self, request: Request) -> Address:
        """The client's address. A proxy's own, where what it says can't be read."""
        address = parse_address(request.client_ip)
        if not self._trusted or address not in self._trusted:
            return address
        told = ",".join(request.headers.get_all(self._header)).split(",")
        for text in reversed(told):
            try:
                address = parse_address(text)
            except ValueError:
                return address
            if address not in self._trusted:
                return address
        return address

    def key_of(self, request: Request, ipv6_prefix: int = 128) -> str:
        """The client's address as a key: an IPv6 one's network, since a client has the whole of it."""
        if not self._trusted:
            return _key_of(request.client_ip, ipv6_prefix)
        return _key_of(str(self.of(request)), ipv6_prefix)


@lru_cache(maxsize=4096)
def _key_of(text: str, ipv6_prefix: int) -> str:
    address = parse_address(text)
    if isinstance(address, IPv6Address) and ipv6_prefix < 128:
        return str(ip_network((address, ipv6_prefix), strict=False))
    return str(address)
