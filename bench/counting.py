"""What a server was asked during a batch, by its own statistics: a batch that asked anything else is Broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bench.rounds import Batch, Sample, check


class Counting(Protocol):
    """A private server that counts its commands."""

    def reset(self) -> None:
        """Count from zero."""

    def commands(self) -> dict[str, int]:
        """Return how often each command ran since then, those that scripts call among them."""


@dataclass(frozen=True, slots=True)
class Call:
    """A contender: its batch, what one call asks the server, and what it is compared with and held to."""

    name: str
    batch: Batch
    asks: Mapping[str, int]
    """Commands that one call sends."""
    inside: Mapping[str, int] | None = None
    """Commands that those call or count besides, such as the ones of a script."""
    raw: str = ""
    """The name of the contender that it is compared with."""
    ratio: float | None = None
    """The most it may cost, as a multiple of the raw one."""
    microseconds: float | None = None
    """The most CPU time it may take."""
    afterwards: Callable[[], None] | None = None
    """Checks what a batch left in the server."""

    def counted(self, server: Counting, times: int) -> Batch:
        """Return the batch, which makes so many calls, with a look at what *server* was asked meanwhile."""
        wanted = {name: count * times for name, count in {**self.asks, **(self.inside or {})}.items()}

        def run() -> Sample:
            server.reset()
            sample = self.batch()
            asked = server.commands()
            check(asked == wanted, f"{self.name}: the server was asked {asked}, not {wanted}")
            if self.afterwards:
                self.afterwards()
            return sample

        return run

    def said(self) -> str:
        """Return the commands in words, those inside of others in parentheses."""
        inside = f" ({_listed(self.inside)})" if self.inside else ""
        return _listed(self.asks) + inside


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(name.upper() if count == 1 else f"{count} {name.upper()}" for name, count in counts.items())
