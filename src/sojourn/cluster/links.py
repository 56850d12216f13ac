"""Links: streams between hosts, from the hello to the end, and what the parts of a node hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sojourn.cluster import wire
from sojourn.cluster.greeting import ITSELF, why_not, why_turned_away
from sojourn.cluster.host import Link, Peer, rules_of
from sojourn.cluster.serving import Unfit

if TYPE_CHECKING:
    from sojourn.cluster.node import Node


MOST_WORDS = 512  # characters of what another host says for the log


class Links:
    """The streams of one node."""

    def __init__(self, node: Node) -> None:
        self._node, self._host = node, node.host

    def accepted(self, link: Link) -> None:
        """Take in a stream that somebody has opened; who has no business here is told so at once."""
        self._host.links[link.number] = link
        if why := why_turned_away(self._host, link):
            self._refuse(link, why)

    def shut(self, link: Link, why: str) -> None:
        """Close a stream and forget it."""
        self._host.close(link, why)
        self.drop(link)

    def drop(self, link: Link) -> None:
        """Forget a stream, and what was expected of it."""
        host = self._host
        host.links.pop(link.number, None)
        peer = host.peers.get(link.name)
        if peer and peer.out is link:
            peer.out = None
            self._node.shipping.broken(peer.name)
            self._node.comparing.broken(peer.name)
            self._node.pulling.broken(link)
            self._node.waiting.lost(peer.name)
        if peer and peer.into is link:
            peer.into = None
        if peer and not (peer.out or peer.into):
            del host.peers[peer.name]
            if host.members.broken(peer.name, host.now):
                self._node.changed()
            self._node.pulling.gone(peer.origin)
        if link.dialed:
            self._node.dialing.failed(link.name)
        host.broken(link)
        self._node.handle_early()

    # -- hello -------------------------------------------------------------------------------------------------------

    def hello(self) -> wire.Hello:
        """Return what this host says first."""
        host = self._host
        members = host.members.all()
        return wire.Hello(
            wire.VERSIONS,
            host.settings.cluster,
            rules_of(host.settings),
            host.me,
            host.tables.origin,
            host.progress(),
            members,
        )

    def greet(self, link: Link, message: wire.Message) -> None:
        """Hear the first message of a stream."""
        if isinstance(message, wire.Refused):
            self._refused(link, message.why)
        elif not isinstance(message, wire.Hello):
            raise Unfit("something else than a hello")
        elif why := why_not(self._host, link, message):
            self._refuse(link, why)
        else:
            self._let_in(link, message)

    def _refused(self, link: Link, why: str) -> None:
        if link.dialed and why == ITSELF:
            self._node.dialing.is_myself(link.name)
        elif link.dialed:
            self._host.remark(f"{link.name} does not let this host in: {_words(why)}")
        self._host.close(link, "refused")
        self.drop(link)
        if link.dialed and why != ITSELF:
            self._node.dialing.failed(link.name, refused=True)

    def _refuse(self, link: Link, why: str) -> None:
        if why == ITSELF and link.dialed:
            self._node.dialing.is_myself(link.name)
        elif why != ITSELF:
            self._host.remark(f"a host is not let in: {why}")
        if not link.dialed:
            self._host.send(link, wire.Refused(why))
        self.shut(link, why)
        if link.dialed and why != ITSELF:
            self._node.dialing.failed(link.name, refused=True)

    def _let_in(self, link: Link, hello: wire.Hello) -> None:
        host = self._host
        peer = self._peer(link, hello)
        link.name, link.greeted = hello.name, True
        changed = host.members.greeted(peer.name, peer.origin, host.now)
        if host.members.told(peer.name, hello.members, host.now) or changed:
            self._node.changed()
        peer.progress, peer.said_ms = hello.progress, 0
        peer.deaf = peer.deaf and host.is_unheard_by(hello.members)  # a ping that said so may be lost with a stream
        host.told(peer, hello.members)
        self._node.catching_up.greeted(peer)
        if link.dialed:
            peer.out = link
            self._node.dialing.greeted(peer.name)
            self._node.shipping.greeted(peer, link, hello.progress.get(host.tables.origin, wire.Progress()))
            self._node.comparing.greeted(peer.name)
            self._node.waiting.reached(peer.name)
        else:
            peer.into = link
            host.send(link, self.hello())
            self._node.dialing.soon(peer.name)
        self._node.pulling.consider()
        self._node.handle_early()

    def _peer(self, link: Link, hello: wire.Hello) -> Peer:
        """Return the host that says hello, without the streams that this one replaces."""
        host = self._host
        if (peer := host.peers.get(hello.name)) and peer.origin != hello.origin:
            for old in [one for one in (peer.out, peer.into) if one]:
                self.shut(old, "the host has begun anew, with other storage")
        elif peer and (older := peer.out if link.dialed else peer.into):
            self._replace(peer, older)
        return host.peers.setdefault(hello.name, Peer(hello.name, hello.origin))

    def _replace(self, peer: Peer, old: Link) -> None:
        """Close a stream in favour of a new one, without a moment in which the host is away."""
        self._host.close(old, "another stream has taken its place")
        self._host.links.pop(old.number, None)
        if old.dialed:
            self._node.shipping.broken(peer.name)
            self._node.waiting.reconsider()
            self._node.comparing.broken(peer.name)
            self._node.pulling.broken(old)
            peer.out = None
        else:
            peer.into = None
        self._host.broken(old)


def _words(said: str) -> str:
    """Return what another host *said* so that it is one line of the log, whatever it is."""
    return "".join(one if one.isprintable() else " " for one in said[:MOST_WORDS])
