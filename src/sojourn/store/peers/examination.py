"""What an operator should know about a host and its cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sojourn.cluster.settings import Settings
from sojourn.cluster.tables import View
from sojourn.core.capability import Finding
from sojourn.store.peers.start import why_not
from sojourn.store.tls import other_authorities

if TYPE_CHECKING:
    from sojourn.store.peers.tables import HostTables


def findings(settings: Settings, tables: HostTables) -> list[Finding]:
    """Return what puts sessions at risk. Raises StoreUnavailable where the storage cannot be asked."""
    return [*tables.examine(), *_of_cluster(settings, tables.view(), why_not(Path(settings.path)))]


def _of_authorities(settings: Settings) -> Iterator[Finding]:
    others = other_authorities(settings.tls) if settings.tls and not settings.members else []
    if others:
        yield Finding(
            f"Every host with a certificate of {' or '.join(map(repr, others))} may join this cluster.",
            "If that authority signs for other machines, too, each of them can read and change every session.",
            "Say which names may be in it, such as members=*.shop.example, on all hosts; or use an authority for this "
            "cluster alone (sojourn cluster certs).",
        )


def _of_cluster(settings: Settings, view: View, failed: str | None) -> Iterator[Finding]:
    if failed:
        yield Finding(
            f"The agent of {settings.path} could not start: {failed}.",
            "Nothing reaches the other hosts, and nothing comes from them.",
            "Mend that; the next write starts it again.",
        )
    yield from _of_authorities(settings)
    others = [member for member in view.members if member.name != settings.me and member.state != "left"]
    if not others:
        yield Finding(
            f"{settings.me} has met no other host.",
            "Its sessions are lost with it.",
            "Start another host with the same store URL, and see that they reach each other.",
        )
    for member in others:
        if member.state != "alive":
            yield Finding(
                f"{member.name} is {member.state}.",
                "Sessions are kept on one host less.",
                "Start it again, or have it leave the cluster: sojourn cluster leave.",
            )
    if settings.acks == 0:
        yield Finding(
            "Writes do not wait for other hosts (acks=0).",
            "A host that dies takes its last writes along, logouts among them.",
            "Use acks=1, unless that was measured to be too slow and such a loss is bearable.",
        )
    if settings.copies == 1:
        yield Finding(
            "There is one copy of each session (copies=1).",
            "A host that dies takes its sessions along.",
            "Use copies=2 or more, or copies=all.",
        )
