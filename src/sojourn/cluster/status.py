"""Status: the cluster as one host sees it, as plain data for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sojourn.cluster.clock import milliseconds
from sojourn.cluster.shipping import Shipping
from sojourn.cluster.wire import Member

if TYPE_CHECKING:
    from sojourn.cluster.node import Node


def status(node: Node) -> dict[str, Any]:
    """Return what ``sojourn cluster status`` shows."""
    host, settings = node.host, node.host.settings
    return {
        "me": host.me,
        "cluster": settings.cluster,
        "origin": host.tables.origin.hex(),
        "ready": host.members.me.ready,
        "leaving": host.leaving,
        "copies": settings.copies,
        "acks": settings.acks,
        "alone": settings.alone,
        "members": [_member(node, member) for member in host.members.all()],
        "progress": {origin.hex(): list(one) for origin, one in host.tables.progress().items()},
        "under_replicated": node.waiting.under_replicated,
        "waiting": len(node.waiting),
        "clashes": host.clashes,
        "questions": node.questions.asked,
        "void_questions": node.questions.void,
        "forwarded": len(node.forwarding),
        "comparing": node.comparing.busy(),
        "differed": sum(round.moved for round in node.comparing.rounds.values()),
        "dropped": node.handover.dropped,
        "remaining": node.handover.remaining,
    }


def _member(node: Node, member: Member) -> dict[str, Any]:
    peer = node.host.peers.get(member.name)
    mine = member.name == node.host.me
    flow = node.shipping.flows.get(member.name)
    return {
        "name": member.name,
        "state": member.state,
        "ready": member.ready,
        "incarnation": member.incarnation,
        "origin": member.origin.hex(),
        "connected": mine or bool(peer and peer.out and peer.into),
        "hears": mine or bool(peer and not peer.deaf),  # this host, by what it has said last
        "lag_ms": 0 if mine else _lag_ms(node.shipping, member.name),
        "behind": 0 if mine else flow.behind if flow else None,
    }


def _lag_ms(shipping: Shipping, name: str) -> int | None:
    """Return how much older what a host has of the own log is than the log's end; None for one that is away."""
    if name not in shipping.flows:
        return None
    end, level = shipping.end(), shipping.level(name)
    return max(milliseconds(end) - milliseconds(level), 0) if level < end and level else 0 if level >= end else None
