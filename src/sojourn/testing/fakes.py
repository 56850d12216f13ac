"""Stand-ins for what the core takes as arguments: time, randomness, and a store that answers from a script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sojourn.core.ids import ID_BYTES
from sojourn.core.ops import Create, Delete, Load, Op, Touch, Update, Written
from sojourn.core.record import Record

START = 2_000_000_000.0  # in 2033, so that a store with a clock of its own finds test sessions alive


class FakeClock:
    """A clock that moves when told to. Call it for the time in seconds since the epoch."""

    def __init__(self, start: float = START) -> None:
        self.now = start

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float = 0.0, **parts: float) -> None:
        """Move on by *seconds*, or by the arguments of ``timedelta``, such as ``minutes=31``."""
        self.now += seconds + timedelta(**parts).total_seconds()


class NumberedRandom:
    """A source of "random" bytes that counts, so that a test can name the ids it will meet."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, size: int = ID_BYTES) -> bytes:
        """Return *size* bytes that spell the next number."""
        self.drawn += 1
        return self.drawn.to_bytes(size, "big")


class ScriptedStore:
    """A store that expects operations in an order and gives the answers it was given.

    An answer that is an exception is raised. ``assert_finished`` tells whether all were asked for.
    """

    waits = False

    def __init__(self, *script: tuple[type[Op], Record | Written | Exception | None]) -> None:
        self._script = list(script)
        self.asked: list[Op] = []

    def load(self, key: bytes) -> Record | None:
        """Answer a Load."""
        answer = self._next(Load(key))
        assert not isinstance(answer, Written)
        return answer

    def create(self, key: bytes, record: Record) -> Written:
        """Answer a Create."""
        return self._written(Create(key, record))

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Answer an Update."""
        return self._written(Update(key, record, base))

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Answer a Touch."""
        return self._written(Touch(key, accessed_at, expires_at, base))

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Answer a Delete."""
        return self._written(Delete(key, base))

    def assert_finished(self) -> None:
        """Fail where the script holds answers that nobody asked for."""
        assert not self._script, f"never asked for: {_names(self._script)}"

    def _written(self, op: Op) -> Written:
        answer = self._next(op)
        assert isinstance(answer, Written), f"{op} was scripted to answer {answer!r}"
        return answer

    def _next(self, op: Op) -> Record | Written | None:
        self.asked.append(op)
        assert self._script, f"the script is over, and the flow asks for {op}"
        expected, answer = self._script.pop(0)
        assert type(op) is expected, f"the script expects {expected.__name__}, and the flow asks for {op}"
        if isinstance(answer, Exception):
            raise answer
        return answer


def _names(script: Sequence[tuple[type[Op], object]]) -> str:
    return ", ".join(expected.__name__ for expected, _ in script)
