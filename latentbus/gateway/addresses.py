"""Which addresses a webhook may reach: public ones, and those that the settings allow.

Names are resolved here and the addresses checked, and the connection goes to exactly those, so that a name that
resolves to another address the next time gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from schemas.errors import NotificationError


class AllowedAddresses:
    """The addresses that may be reached.

    Args:
        allow: hosts and networks that are allowed though they are not public.
    """

    def __init__(self, allow: Iterable[str]) -> None:
        self._hosts: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in allow:
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                self._hosts.add(entry.lower().rstrip("."))

    def allows(self, host: str, address: str) -> bool:
        """Whether an address may be reached that a host name stands for.

        Args:
            host: as it stands in the address of the webhook.
            address: an IPv4 or IPv6 address.
        """
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if host.lower().rstrip(".") in self._hosts or any(found in network for network in self._networks):
            return True
        return found.is_global and not found.is_multicast

    def check_literal(self, channel: str, url: str) -> None:
        """An address that names no host but an address must be allowed itself: nobody resolves it.

        Raises:
            NotificationError: it is not.
        """
        host = urlsplit(url).hostname or ""
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return
        if not self.allows(host, host):
            raise NotificationError(channel, _refusal(host, host), again=False)


class AllowedResolver(AbstractResolver):
    """Resolves names to addresses that may be reached, and to no others.

    Args:
        addresses: those.
        resolver: resolves names; the system's unless given.
    """

    def __init__(self, addresses: AllowedAddresses, resolver: AbstractResolver | None = None) -> None:
        self._addresses = addresses
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host.

        Raises:
            OSError: it has none that may be reached.
        """
        found = await self._resolver.resolve(host, port, family)
        allowed = [entry for entry in found if self._addresses.allows(host, entry["host"])]
        if found and not allowed:
            raise OSError(_refusal(host, found[0]["host"]))
        return allowed

    async def close(self) -> None:
        """Release what it holds."""
        await self._resolver.close()


def _refusal(host: str, address: str) -> str:
    what = host if host == address else f"{host} ({address})"
    return f"{what} is no public address: name it under gateway.alerts.allow if it is meant"
