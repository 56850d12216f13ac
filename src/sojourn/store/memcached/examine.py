"""What a memcached says about itself, and what of it an operator should change. Pure, but for the log.

That memcached forgets everything when it ends, and what is oldest when it is full, is no finding: it is what it is
made for, and docs/stores/memcached.md says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sojourn.core.capability import Finding
from sojourn.store.memcached.protocol import Statistics
from sojourn.store.memcached.settings import Address, MemcachedSettings

_log = logging.getLogger("sojourn.store")


def findings(address: Address, settings: MemcachedSettings, general: Statistics, options: Statistics) -> list[Finding]:
    """Return what is found in ``stats`` (*general*) and ``stats settings`` (*options*) of the server at *address*."""
    server = settings.describe(address)
    found = [
        _network(server, address, settings),
        _evictions(server, general),
        _compares(server, options),
        _item_size(server, settings, options),
        _connections(server, general, options),
    ]
    return [finding for finding in found if finding]


def report(found: Sequence[Finding]) -> None:
    """Log each finding as a warning."""
    for finding in found:
        _log.warning("%s %s Cure: %s", *finding)


def _network(server: str, address: Address, settings: MemcachedSettings) -> Finding | None:
    if address.is_local or settings.tls:
        return None
    return Finding(
        f"{server} is spoken to over the network without TLS, and memcached asks nobody for a password.",
        "Whoever is on that network can read, change and end every session.",
        "Run memcached with TLS (-Z) and write memcacheds://, or keep the network to the application's hosts alone.",
    )


def _evictions(server: str, general: Statistics) -> Finding | None:
    if not (evicted := _number(general, "evictions")):
        return None
    megabytes = _number(general, "limit_maxbytes") >> 20
    return Finding(
        f"{server} has evicted {evicted} items since it started, for want of memory (-m {megabytes}).",
        "Live sessions end before their time: their visitors are logged out.",
        "Give it more memory (-m), add servers, share it with no cache, or let sessions be smaller or end sooner.",
    )


def _compares(server: str, options: Statistics) -> Finding | None:
    if options.get("cas_enabled", "yes") == "yes":
        return None
    return Finding(
        f"{server} was started with -C, which turns compare-and-swap off.",
        "No session can be changed or touched there: it could not be seen that another request did so, too.",
        "Start it without -C.",
    )


def _item_size(server: str, settings: MemcachedSettings, options: Statistics) -> Finding | None:
    limit = _number(options, "item_size_max")
    if not limit or limit >= settings.max_item:
        return None
    return Finding(
        f"{server} takes items of {limit} bytes (-I), and the store URL says max_item={settings.max_item}.",
        "A session between the two bounds cannot be stored: its requests fail with 503.",
        f"Start it with -I {settings.max_item}, or write max_item={limit} in the store URL on every host.",
    )


def _connections(server: str, general: Statistics, options: Statistics) -> Finding | None:
    refused = _number(general, "rejected_connections") or _number(general, "listen_disabled_num")
    if not refused:
        return None
    return Finding(
        f"{server} has turned {refused} connections away since it started (-c {_number(options, 'maxconns')}).",
        "Requests whose session is there fail with 503.",
        "Let it take more connections (-c), or lower pool= in the store URL.",
    )


def _number(statistics: Statistics, name: str) -> int:
    value = statistics.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() else 0
