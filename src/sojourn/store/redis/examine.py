"""What in the set-up of a Redis or Valkey server puts sessions at risk, out of what it says about itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sojourn.core.capability import Finding
from sojourn.store.redis.commands import Command

OLDEST = (6, 2)

QUESTIONS: tuple[Command, ...] = (("INFO",), ("CONFIG", "GET", "save"), ("CONFIG", "GET", "appendfsync"))
"""What to ask a server; its replies go to :func:`findings` in this order, error replies as exceptions."""


class Link(NamedTuple):
    """The way to a server."""

    network: bool
    """Whether it leaves this host."""
    tls: bool
    password: bool
    cluster: bool = False
    """Whether the client follows a Cluster's redirections."""


def findings(where: str, replies: Sequence[Any], link: Link) -> list[Finding]:
    """Return what an operator should know about the server at *where*, the gravest first.

    *replies* are those to `QUESTIONS`, with text as bytes. All but the first may be refusals.
    """
    info = _info(replies[0])
    config = [_config(reply) for reply in replies[1:]]
    return [*_role(where, info, link), *_memory(where, info), *_disk(where, info, *config), *_network(where, link)]


def _role(where: str, info: Mapping[str, str], link: Link) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield Finding(
            f"{where} is a replica.",
            "It takes no writes, and may not know yet that a session was ended.",
            "Name the primary, or use redis+sentinel:// so that it is looked up.",
        )
    if info.get("cluster_enabled") == "1" and not link.cluster:
        yield Finding(
            f"{where} is a node of a Cluster, and the store is set up for one server.",
            "Sessions whose keys lie on other nodes cannot be read or written.",
            "Write the URL as redis+cluster://.",
        )
    version = info.get("redis_version", "")  # Valkey says here with which Redis it is compatible
    if (numbers := _numbers(version)) and numbers < OLDEST:
        yield Finding(
            f"{where} is Redis {version}, older than {OLDEST[0]}.{OLDEST[1]}.",
            "It gets no security updates, and commands that sessions need may be missing.",
            "Upgrade the server.",
        )


def _memory(where: str, info: Mapping[str, str]) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        limit = info.get("maxmemory", "0")
        when = "if it ever gets a maxmemory, and reaches it" if limit == "0" else f"at {limit} bytes of maxmemory"
        yield Finding(
            f"{where} evicts keys: maxmemory-policy is {policy}.",
            f"When its memory is full ({when}), it removes live sessions, and their visitors are logged out. "
            "A principal's list can go, too: then a revocation misses sessions that are still there.",
            "Set maxmemory-policy noeviction, and give it memory enough for all sessions.",
        )


def _disk(
    where: str, info: Mapping[str, str], save: Mapping[str, str] | None, fsync: Mapping[str, str] | None
) -> Iterator[Finding]:
    if "aof_enabled" not in info:
        return
    if info["aof_enabled"] != "1":
        yield _without_log(where, save)
    elif fsync is None:
        yield Finding(
            f"{where} has an append-only file, and does not let its settings be read (CONFIG GET).",
            "How soon it is on the disk could not be seen: with appendfsync everysec a power cut loses a second.",
            "Allow this user +config|get, or see with whoever runs the server what appendfsync is.",
        )
    elif (when := fsync.get("appendfsync", "always")) != "always":
        lost = "the last second" if when == "everysec" else "the last half minute"
        yield Finding(
            f"{where} writes its append-only file to the disk later: appendfsync is {when}.",
            f"A power cut loses what was answered in {lost}: new sessions are gone, and sessions that were ended then "
            "are back.",
            "Set appendfsync always where that matters; each write then waits for the disk.",
        )


def _without_log(where: str, save: Mapping[str, str] | None) -> Finding:
    if save is None:
        return Finding(
            f"{where} has no append-only file, and does not let its settings be read (CONFIG GET).",
            "Whether it saves snapshots could not be seen. Without them a restart ends every session; with them a "
            "crash brings sessions back that were ended since the last one.",
            "Set appendonly yes, or see with whoever runs the server what a restart keeps.",
        )
    if not save.get("save"):
        return Finding(
            f"{where} keeps nothing on disk: appendonly is no, and save is empty.",
            "A restart ends every session. (None that was ended comes back.)",
            "Set appendonly yes, unless that is what you want.",
        )
    return Finding(
        f"{where} keeps snapshots only: appendonly is no.",
        "After a crash it has the sessions of the last snapshot: newer ones are gone, and those that were ended since "
        "are back.",
        'Set appendonly yes, or save "" where a restart may end every session.',
    )


def _network(where: str, link: Link) -> Iterator[Finding]:
    if link.network and not link.tls:
        yield Finding(
            f"{where} is reached over the network without TLS.",
            "Whoever can listen there reads every session and the password.",
            "Use rediss:// and a server with tls-port.",
        )
    if link.network and not link.password:
        yield Finding(
            f"{where} is reached over the network without a password.",
            "Whoever can reach it can read, change and end every session.",
            "Set requirepass or an ACL user, and write it in the URL as redis://user:password@host.",
        )


def _info(reply: bytes) -> dict[str, str]:
    """Return the fields of INFO."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _config(reply: Any) -> dict[str, str] | None:
    """Return what CONFIG GET answered, a list in RESP2 and a map in RESP3; None where it was refused."""
    if isinstance(reply, Exception) or not reply:
        return None
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
