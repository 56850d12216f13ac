"""One visitor's requests, and the proof that each of them was served: what every request benchmark shares.

Rule: answers are collected while the clock runs and judged after it has stopped, all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from bench import visitor
from bench.rounds import Batch, Rounds, Sample, check, interleave
from bench.table import say, table, title, verdict

ROUTES = {
    "never": "The route never touches the session. The visitor's cookie is sent.",
    "greet": "The route reads one of the five keys, a short text.",
    "read": "The route reads all five keys.",
    "write": "The route reads the cart, changes it and sets it again.",
}

BARE = "bare"


class Keeps(Enum):
    """Where an application keeps the visitor's data."""

    NOWHERE = auto()
    """In a plain dict: the bare application."""
    SERVER = auto()
    """In a store; the browser holds an id, which stays the same."""
    SERVER_RESENDS = auto()
    """In a store; the same cookie is sent again with every response."""
    SERVER_RESENDS_CHANGES = auto()
    """In a store; the same cookie is sent again after each write."""
    BROWSER = auto()
    """In the cookie; each write sends another one."""


_MAY_SEND = (Keeps.BROWSER, Keeps.SERVER_RESENDS)  # with a read
_SEND_AFTER_WRITES = (*_MAY_SEND, Keeps.SERVER_RESENDS_CHANGES)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the body, and the cookie as the browser returns it."""

    status: int
    body: bytes
    cookie: bytes | None


class Client(Protocol):
    """A way to one application: in this process, or through a server."""

    def ask(self, route: str, cookie: bytes, times: int) -> tuple[Sample, list[Answer]]:
        """Send so many requests; return what each took on the server and all answers."""


class Visitor:
    """A browser with one cookie that knows what it must be shown."""

    def __init__(self, name: str, client: Client, keeps: Keeps) -> None:
        self._name, self._client, self._keeps = name, client, keeps
        self._count = visitor.FIRST_COUNT
        self.cookie = b""
        answer = self._ask_one("begin")
        check((answer.cookie is None) is (keeps is Keeps.NOWHERE), f"{name}: a session begins with a cookie")
        self.cookie = answer.cookie or b"other=1"

    def batch(self, route: str, times: int) -> Sample:
        """Send so many requests, check every answer, and return what a request took."""
        sample, answers = self._client.ask(route, self.cookie, times)
        check(len(answers) == times, f"{self._name}: {len(answers)} answers to {times} requests")
        wrong = [answer for answer in answers if answer.status != 200]
        check(not wrong, f"{self._name}: {wrong[:1]}")
        if route == "write":
            self._check_writes(answers)
        else:
            self._check_reads(route, answers)
        return sample

    def _check_reads(self, route: str, answers: Sequence[Answer]) -> None:
        wanted = {"never": "hello", "greet": visitor.greet(visitor.data()), "read": visitor.shown(self._count)}[route]
        self._check_bodies(answers, [wanted] * len(answers))
        # A peer may send its cookie again on a read; ours must not.
        silent = not any(answer.cookie for answer in answers)
        check(silent or self._keeps in _MAY_SEND, f"{self._name}: a reader sent a cookie")

    def _check_writes(self, answers: Sequence[Answer]) -> None:
        """Check the answers, and that the last write is what another request reads."""
        first, times = self._count + 1, len(answers)
        in_browser = self._keeps is Keeps.BROWSER
        counts = [first] * times if in_browser else range(first, first + times)
        # Connections are served in the order of their arrival, which need not be that of sending: so sort them.
        in_order = sorted(answers, key=lambda answer: answer.body)
        self._check_bodies(in_order, [f"{count} of the first" for count in counts])
        sent = sum(answer.cookie is not None for answer in answers)
        due = times if self._keeps in _SEND_AFTER_WRITES else 0
        check(sent == due, f"{self._name}: {sent} cookies after {times} writes")
        self._count = counts[-1]
        self.cookie = answers[-1].cookie or self.cookie
        self._check_reads("read", [self._ask_one("read")])

    def _check_bodies(self, answers: Sequence[Answer], wanted: Sequence[str]) -> None:
        for answer, text in zip(answers, wanted, strict=True):
            check(answer.body == text.encode(), f"{self._name}: answered {answer.body!r}, not {text!r}")

    def _ask_one(self, route: str) -> Answer:
        _, (answer,) = self._client.ask(route, self.cookie, 1)
        check(answer.status == 200, f"{self._name}: {answer}")
        return answer


def set_cookie(headers: Sequence[tuple[str, str]]) -> bytes | None:
    """Return name and value of the one cookie that *headers* set, or None."""
    lines = [value for name, value in headers if name.lower() == "set-cookie"]
    check(len(lines) < 2, "two cookies were set")
    return lines[0].partition(";")[0].encode("latin-1") if lines else None


@dataclass(frozen=True, slots=True)
class Goal:
    """What the project asks of its ``local:`` store on one route."""

    microseconds: float
    share: float | None = None
    """Of what the peer adds to the bare application."""


GOALS = {"never": Goal(3), "greet": Goal(30, 0.33), "read": Goal(30, 0.33), "write": Goal(70, 0.5)}


def compare(
    visitors: Mapping[str, Visitor], rounds: int, times: int, peer: str | None = None, judged: str | None = None
) -> None:
    """Measure each route with every visitor, in interleaved rounds, and print a table for each.

    *peer* is the application that shares are taken of, *judged* the one that is held to the goals.
    """
    for route, meaning in ROUTES.items():
        batches = {name: _batch(visits, route, times) for name, visits in visitors.items()}
        measured = interleave(batches, rounds)
        title(f"/{route}", 4)
        say(meaning)
        heads = ("application", "CPU a request, µs", "added to bare, µs", "share of the peer's", "goal")
        table(heads, [_row(name, route, measured, peer, judged) for name in visitors])


def _batch(visits: Visitor, route: str, times: int) -> Batch:
    return lambda: visits.batch(route, times)


def _row(name: str, route: str, measured: Rounds, peer: str | None, judged: str | None) -> tuple[object, ...]:
    if name == BARE:
        return name, measured.cpu(name), "", "", ""
    added = measured.added(name, BARE)
    share = measured.share(name, BARE, peer) if peer and name != peer else None
    said = []
    if name == judged:
        goal = GOALS[route]
        said.append(verdict(added.median, goal.microseconds, " µs"))
        if goal.share and share:
            said.append(verdict(share.median, goal.share))
    return name, measured.cpu(name), added, share or "", "; ".join(said)
