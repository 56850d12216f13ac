"""Proof that a broken run is noticed: stores and browsers that do less than they say, and so would look fast."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

from bench import asgi_apps
from bench.asgi_direct import DirectClient
from bench.counting import Call
from bench.exchange import ROUTES, Answer, Keeps, Visitor
from bench.operations import Visit
from bench.rounds import Broken, Sample, check
from bench.server_calls import CALLS, Held, loads
from bench.table import say, table, title
from sojourn import SessionManager
from sojourn.core.ops import Store, Written
from sojourn.core.record import Record
from sojourn.store.memory import MemoryStore


class Lying(MemoryStore):
    """Says that it has updated, and has not."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Do nothing."""
        return Written.DONE


class Forgetful(MemoryStore):
    """Never finds anything."""

    def load(self, key: bytes) -> Record | None:
        """Find nothing."""
        return None


class CookieLess(DirectClient):
    """Sends requests without the visitor's cookie."""

    def ask(self, route: str, cookie: bytes, times: int) -> tuple[Sample, list[Answer]]:
        """Ask as somebody else."""
        return super().ask(route, b"other=1", times)


def _requests(store: Store, client: type[DirectClient] = DirectClient) -> None:
    """Measure a few requests, as the request benchmarks do."""
    app = asgi_apps.with_ours(store)
    with asyncio.Runner() as runner:
        visitor = Visitor("selfcheck", client(app, runner), Keeps.SERVER)
        for route in ROUTES:
            visitor.batch(route, 3)


def _operations(store: Store) -> None:
    """Measure a few operations, as that benchmark does."""
    visit = Visit(SessionManager(store))
    visit.read()
    visit.write()
    visit.check()


class Chatty(MemoryStore):
    """Asks the server twice where once would do."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def load(self, key: bytes) -> Record | None:
        """Look twice."""
        self.asked += 2
        return super().load(key)

    def reset(self) -> None:
        """Count from zero."""
        self.asked = 0

    def commands(self) -> dict[str, int]:
        """Say what was asked."""
        return {"get": self.asked} if self.asked else {}


class Once(Chatty):
    """Asks the server once."""

    def load(self, key: bytes) -> Record | None:
        """Look once."""
        self.asked -= 1
        return super().load(key)


def _server_calls(store: Chatty) -> None:
    """Measure a few loads, as the benchmark of session servers does, with the store as its own server."""
    held = Held(1)
    store.create(held.key, held.record())
    Call("load", loads(store, held), {"get": 1}).counted(store, CALLS)()


BROKEN: dict[str, Callable[[], None]] = {
    "requests, a store that does not update": lambda: _requests(Lying()),
    "requests, a store that finds nothing": lambda: _requests(Forgetful()),
    "requests, a browser without the cookie": lambda: _requests(MemoryStore(), CookieLess),
    "operations, a store that does not update": lambda: _operations(Lying()),
    "operations, a store that finds nothing": lambda: _operations(Forgetful()),
    "session servers, a store that asks twice": lambda: _server_calls(Chatty()),
}


def _noticed(run: Callable[[], None]) -> str:
    try:
        run()
    except (Broken, KeyError) as error:  # a view that misses a key of the session fails by itself
        return f"{type(error).__name__}: {error}"
    return ""


def report(quick: bool = False) -> None:
    """Print what each broken run was noticed by."""
    title("Self-check")
    logging.getLogger("sojourn").setLevel(logging.CRITICAL)
    _requests(MemoryStore())
    _operations(MemoryStore())
    _server_calls(Once())
    said = {name: _noticed(run) for name, run in BROKEN.items()}
    logging.getLogger("sojourn").setLevel(logging.NOTSET)
    for name, noticed in said.items():
        check(noticed, f"nobody noticed: {name}")
    say("Runs that are broken on purpose, and how each was noticed. The same runs pass with a store that works.")
    table(("broken run", "noticed by"), said.items(), numbers=False)


if __name__ == "__main__":
    report("--quick" in sys.argv)
