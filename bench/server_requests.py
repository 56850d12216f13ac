"""What a session on Redis adds to a request: ours beside starsessions, Litestar's own and Flask-Session.

Each library is measured in the framework that it is for, and ours in the same: what is added is added to the same bare
application. The server counts the commands of every batch.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import redis
import redis.asyncio
from tests.servers.redis import RedisServer

from bench import asgi_direct, server_asgi_apps, server_wsgi_apps, visitor, wsgi_direct
from bench.counting import Counting
from bench.exchange import BARE, ROUTES, Answer, Client, Keeps, Visitor
from bench.quiet import without_advice
from bench.rounds import Batch, Rounds, Sample, check, interleave
from bench.table import say, table, title, verdict

AT_ONCE = 8
TIMES = 48  # requests in one batch
SHARE = 2 / 3  # of what the peer adds, on a route that reads
READS = ("greet", "read")
NOT_JUDGED = (server_wsgi_apps.PEER_QUIET,)  # it is not how the peer is by default


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("Requests with the session on Redis")
    say(
        f"The visitor of the other requests, with {visitor.SIZE} bytes of user data. Applications are called in "
        "process, with prepared requests; the CPU time is that of the process which serves them. Each library has its "
        "default settings and a client of its own for the same server. What is added is the difference to the bare "
        "application in the same round, and a share is that of ours in what the peer adds in the same round. "
        "Every answer is checked, and the server counts the commands of each batch."
    )
    rounds = 8 if quick else 60
    with without_advice(), RedisServer() as server, asyncio.Runner() as runner:
        _asgi(server, runner, rounds)
        _wsgi(server, rounds)


def _asgi(server: RedisServer, runner: asyncio.Runner, rounds: int) -> None:
    client = redis.asyncio.Redis(host="127.0.0.1", port=server.port)
    starlette = server_asgi_apps.in_starlette(server.url, client)
    litestar = server_asgi_apps.in_litestar(server.url, client)
    for at_once in (AT_ONCE, 1):
        how = f"{at_once} requests at once, writes one by one" if at_once > 1 else "one request after another"
        title(f"Starlette {version('starlette')}, {how}", 3)
        say(f"The peer is starsessions {version('starsessions')}, which loads the session before each request.")
        clients = {name: asgi_direct.DirectClient(app, runner, at_once) for name, app in starlette.items()}
        keeps, ours = server_asgi_apps.STARLETTE_KEEPS, [server_asgi_apps.OURS]
        Group(server, clients, keeps, ours, [server_asgi_apps.STARSESSIONS]).compare(rounds)
        title(f"Litestar {version('litestar')}, {how}", 3)
        say("The peer is Litestar's own server-side session; ours is the ASGI middleware around the application.")
        clients = {name: asgi_direct.DirectClient(app, runner, at_once) for name, app in litestar.items()}
        keeps = server_asgi_apps.LITESTAR_KEEPS
        Group(server, clients, keeps, ours, [server_asgi_apps.LITESTAR]).compare(rounds)
    runner.run(client.aclose())
    for app in (starlette[server_asgi_apps.OURS], litestar[server_asgi_apps.OURS]):
        middleware: Any = app
        runner.run(middleware.manager.aclose())


def _wsgi(server: RedisServer, rounds: int) -> None:
    title(f"Flask {version('flask')}", 3)
    say(
        f"The peer is Flask-Session {version('Flask-Session')}, as it is by default and without refreshing the session "
        "on each response. Ours is the Flask extension, and the WSGI middleware around the application."
    )
    with redis.Redis("127.0.0.1", server.port) as client:
        apps = server_wsgi_apps.in_flask(server.url, client)
        clients = {name: wsgi_direct.DirectClient(app) for name, app in apps.items()}
        ours = [server_wsgi_apps.EXTENSION, server_wsgi_apps.MIDDLEWARE]
        peers = [server_wsgi_apps.PEER, server_wsgi_apps.PEER_QUIET]
        Group(server, clients, server_wsgi_apps.KEEPS, ours, peers).compare(rounds)


class CountedClient:
    """A client whose requests are counted as commands of the session server."""

    def __init__(self, client: Client, server: Counting) -> None:
        self._client, self._server = client, server
        self.begin()

    def begin(self) -> None:
        """Count from zero."""
        self.requests: Counter[str] = Counter()
        self.commands: dict[str, Counter[str]] = {route: Counter() for route in ("begin", *ROUTES)}

    def ask(self, route: str, cookie: bytes, times: int) -> tuple[Sample, list[Answer]]:
        """Send so many requests."""
        self._server.reset()
        answered = self._client.ask(route, cookie, times)
        self.commands[route] += Counter(self._server.commands())
        self.requests[route] += times
        return answered

    def each(self, route: str) -> dict[str, float]:
        """Return the commands of one request to *route*, but for those that less than one in a hundred sends."""
        shares = {name: count / self.requests[route] for name, count in self.commands[route].items()}
        return {name: share for name, share in sorted(shares.items()) if share >= 0.01}


class Group:
    """Applications of one framework, each with a visitor. *ours* must be among them, and *peers*."""

    def __init__(
        self,
        server: Counting,
        clients: Mapping[str, Client],
        keeps: Mapping[str, Keeps],
        ours: Sequence[str],
        peers: Sequence[str],
    ) -> None:
        self._clients = {name: CountedClient(client, server) for name, client in clients.items()}
        self._visitors = {name: Visitor(name, client, keeps[name]) for name, client in self._clients.items()}
        self._ours, self._peers = ours, peers

    def compare(self, rounds: int) -> None:
        """Print two tables for each route: what each application adds, and the share of ours in what the peers add."""
        for route, meaning in ROUTES.items():
            for client in self._clients.values():
                client.begin()
            measured = interleave({name: self._batch(visits, route) for name, visits in self._visitors.items()}, rounds)
            title(f"/{route}", 4)
            say(meaning)
            heads = ("application", "commands a request", "CPU a request, µs", "added to bare, µs")
            table(heads, [self._row(name, route, measured) for name in self._visitors])
            heads = ("ours", "beside", "share of what that adds", "goal")
            table(heads, [_share(name, peer, route, measured) for name in self._ours for peer in self._peers])

    def _batch(self, visits: Visitor, route: str) -> Batch:
        return lambda: visits.batch(route, TIMES)

    def _row(self, name: str, route: str, measured: Rounds) -> tuple[object, ...]:
        each = self._clients[name].each(route)
        if name in self._ours and route in READS:
            check(set(each) == {"get"} and each["get"] == 1, f"{name}: a reader sends {each}, not one GET")
        said = ", ".join(f"{share:.2g} {command.upper()}" for command, share in each.items())
        return name, said, measured.cpu(name), measured.added(name, BARE) if name != BARE else ""


def _share(name: str, peer: str, route: str, measured: Rounds) -> tuple[object, ...]:
    share = measured.share(name, BARE, peer)
    judged = route in READS and peer not in NOT_JUDGED
    return name, peer, share, verdict(share.median, round(SHARE, 2)) if judged else ""


if __name__ == "__main__":
    report("--quick" in sys.argv)
