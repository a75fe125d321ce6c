"""The rule per address in front of the broker, for nftables.

Mosquitto's own cap counts all connections together, and one address could take them all before it has shown a
certificate. The kernel counts them by address.

``broker.nft`` is the same for the usual port; a test compares.
"""

from __future__ import annotations

from typing import Final

CONNECTIONS_PER_ADDRESS: Final = 64
"""Connections at a time from one IPv4 address or one IPv6 /64: a site behind one address with some dozen devices."""
NEW_PER_SECOND: Final = 20
"""New connections a second from one address; each costs the broker a TLS handshake."""
NEW_BURST: Final = 64
"""New connections at once from one address, before the rate counts: all of a site, after a restart of the broker."""
ADDRESSES: Final = 65_535
"""Addresses that are counted at a time, for IPv4 and IPv6 each; beyond, further ones are not let in."""

_TEMPLATE: Final = """\
# Connections to the broker, counted by address. Load it with `nft -f FILE`, at start from /etc/nftables.conf with
# `include "FILE"`. It leaves all other traffic alone. Made by broker_config/firewall.py.
table inet latentbus
delete table inet latentbus
table inet latentbus {{
    set open_ipv4 {{ type ipv4_addr; size {addresses}; flags dynamic; }}
    set open_ipv6 {{ type ipv6_addr; size {addresses}; flags dynamic; }}
    set new_ipv4 {{ type ipv4_addr; size {addresses}; flags dynamic,timeout; timeout 1m; }}
    set new_ipv6 {{ type ipv6_addr; size {addresses}; flags dynamic,timeout; timeout 1m; }}
    chain input {{
        type filter hook input priority filter; policy accept;
        tcp dport {port} ct state new jump by_address
    }}
    chain by_address {{
        update @new_ipv4 {{ ip saddr limit rate over {rate}/second burst {burst} packets }} drop
        update @new_ipv6 {{ ip6 saddr & {network} limit rate over {rate}/second burst {burst} packets }} drop
        add @open_ipv4 {{ ip saddr ct count over {connections} }} reject with tcp reset
        add @open_ipv6 {{ ip6 saddr & {network} ct count over {connections} }} reject with tcp reset
    }}
}}
"""


def firewall_rules(port: int) -> str:
    """A file for ``nft -f``; loading it again replaces it.

    Args:
        port: TCP port of the broker's listener.
    """
    return _TEMPLATE.format(
        port=port,
        network="ffff:ffff:ffff:ffff::",
        addresses=ADDRESSES,
        rate=NEW_PER_SECOND,
        burst=NEW_BURST,
        connections=CONNECTIONS_PER_ADDRESS,
    )
