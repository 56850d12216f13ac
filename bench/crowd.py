"""Many sessions of one principal among those of others, put into Redis or into a local store as logins would.

All logins are of one moment, NOW, and the manager's clock must stand there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis

from bench.rounds import check
from bench.sessions import NOW, Records, key_of
from sojourn.core.ops import Written
from sojourn.core.principals import tag_of
from sojourn.core.record import Record
from sojourn.store.local import LocalStore
from sojourn.store.redis.commands import Command, Commands, with_source

PRINCIPAL = "alice"
EACH = 2  # sessions of every other principal
FIRST_OTHER = 10_000_000
AGE, IDLE = 86_400.0, 1800.0  # seconds
BATCH = 500


@dataclass(frozen=True, slots=True)
class Login:
    """One session and the index entry that was written before it."""

    tag: bytes
    key: bytes
    record: Record

    @property
    def until(self) -> float:
        """When the index entry ends."""
        return self.record.created_at + AGE


@dataclass(frozen=True, slots=True)
class Crowd:
    """*many* sessions of one principal, and *others*."""

    many: int
    others: int

    def logins(self) -> Iterator[Login]:
        """Return the principal's sessions, new ones under the same keys every time."""
        return self._logins(range(self.many), lambda number: PRINCIPAL)

    def other_logins(self) -> Iterator[Login]:
        """Return everybody else's sessions."""
        return self._logins(self.other_numbers, lambda number: f"user {number // EACH}")

    @property
    def other_numbers(self) -> range:
        """The numbers of the others' sessions."""
        return range(FIRST_OTHER, FIRST_OTHER + self.others)

    def _logins(self, numbers: Iterable[int], principal_of: Callable[[int], str]) -> Iterator[Login]:
        records = Records()
        for number in numbers:
            principal = principal_of(number)
            record = records.make(number, NOW + IDLE)._replace(principal=principal)
            yield Login(tag_of(principal), key_of(number), record)


def put_into_redis(client: redis.Redis, logins: Iterator[Login]) -> None:
    """Send what the store sends for each login, in packets."""
    made = Commands()
    while batch := list(islice(logins, BATCH)):
        asked: list[Command] = []
        for login in batch:
            asked.append(with_source(made.enlist(login.tag, login.key, login.record.created_at, login.until)))
            asked.append(made.create(login.key, login.record))
        pipeline: Any = client.pipeline(transaction=False)
        for command in asked:
            pipeline.execute_command(*command)
        check(all(pipeline.execute()), "a session was not created")


def put_into_local(store: LocalStore, logins: Iterator[Login]) -> None:
    """Perform each login."""
    for login in logins:
        store.enlist(login.tag, login.key, login.record.created_at, login.until)
        check(store.create(login.key, login.record) is Written.DONE, "a session was not created")
