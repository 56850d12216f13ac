"""Forged histories: told step by step, for tests of the checkers."""

from __future__ import annotations

from sojourn.testing.sim_checks import check
from sojourn.testing.sim_history import Answered, Begins, Copy, History, Sent, Trouble


class Forged:
    """A history, told step by step. Time is the number of lines."""

    def __init__(self, **begins: object) -> None:
        self.lines: History = [Begins(1, ("a", "b", "c"), **begins)]  # type: ignore[arg-type]
        self.requests = 0

    def send(
        self, client: int, host: str, does: str, session: str | None, who: str | None = None, **sets: int | None
    ) -> int:
        self.requests += 1
        wishes = {key: self.requests if value else None for key, value in sets.items()}
        mark = self.requests if wishes else 0
        self.lines.append(Sent(len(self.lines), self.requests, client, host, does, session, wishes, mark, who))  # type: ignore[arg-type]
        return self.requests

    def answer(self, request: int, session: str | None, **fields: object) -> None:
        self.lines.append(Answered(len(self.lines), request, True, session=session, **fields))  # type: ignore[arg-type]

    def write(self, client: int, host: str, session: str | None, into: str | None = None, **fields: object) -> int:
        """A write of the key ``x`` that succeeds; returns its mark."""
        request = self.send(client, host, "write", session, x=1)
        self.answer(request, into or session, **{"found": bool(session), "wrote": True, "hosts": 1, **fields})
        return request

    def read(self, client: int, host: str, session: str, **fields: object) -> int:
        request = self.send(client, host, "read", session)
        self.answer(request, session, **{"found": True, **fields})
        return request

    def end(self, host: str, session: str, x: int, does: str = "logout", into: str | None = None) -> int:
        """A logout or a renewal by client 1, that finds *x* and succeeds."""
        request = self.send(1, host, does, session)
        self.answer(request, into, found=True, reads={"x": x}, ended=True, hosts=1)
        return request

    def login(self, client: int, host: str, session: str | None, into: str, hosts: int = 1) -> None:
        request = self.send(client, host, "login", session, "p")
        self.answer(request, into, found=bool(session), ended=bool(session), hosts=hosts)

    def revoke(self, host: str, session: str | None = None, hosts: int = 1) -> None:
        request = self.send(9, host, "revoke", session, "p")
        self.answer(request, session, ended=True, wrote=True, hosts=hosts)

    def passes(self, seconds: int) -> None:
        """Let time pass: time is the number of lines."""
        for _ in range(seconds):
            self.happens("nothing")

    def happens(self, what: str, *hosts: str) -> None:
        self.lines.append(Trouble(len(self.lines), what, hosts))

    def finally_(
        self, session: str, reads: dict[str, int], state: str = "live", hosts: str = "abc", **odd: str
    ) -> None:
        for host in hosts:
            self.lines.append(Copy(host, session, state, odd.get(host, "same"), reads, ("a", "b", "c")))  # type: ignore[arg-type]

    def broken(self) -> set[str]:
        """The promises that this history breaks; one that never came to rest is not held against it."""
        if not any(isinstance(line, Trouble) and line.what == "quiet" for line in self.lines):
            return {finding.promise for finding in check([*self.lines, Trouble(1e9, "over"), Trouble(1e9, "quiet")])}
        return {finding.promise for finding in check(self.lines)} - {"answers"}
