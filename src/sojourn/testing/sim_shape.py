"""Shapes: how large a simulated cluster is, how long its history, how often what happens, and what it promises."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, get_args

from sojourn.core.policy import DAY, Policy
from sojourn.testing.sim_history import Does

ACTS: tuple[Does, ...] = get_args(Does)
GRACE = 10.0  # seconds for which an id that was renewed still leads on
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large, how long, and what the cluster promises."""

    hosts: int = 3
    copies: int | None = None
    acks: int | None = 1
    alone: str = "accept"
    browsers: int = 5
    requests: int = 25
    """Of each browser in a round."""
    rounds: int = 1
    faults: int = 2
    """In a round."""
    seconds: float = 6.0
    """Of a round."""
    piece: int = 512
    """Changes in one piece of a log, at most."""
    delay: float | None = None
    """Seconds that a message takes; None: as it is drawn."""
    small: bool = False
    """Whether other bounds, too, are as small as they are drawn; see ``sim_bounds``."""
    repeats: float = 0.0
    framed: bool = False
    tls: bool = False
    joins: bool = False
    leaves: bool = False
    acts: tuple[int, ...] = (40, 44, 4, 5, 4, 2, 2, 1)
    """How often browsers do each of what they can do."""
    idle: float = 7 * DAY
    """Seconds without a look until a session is over."""
    lifetime: float = 30 * DAY
    """Seconds until it is over in any case."""
    touch: float = 1.0
    """Seconds between two looks that are written down."""
    jumps: tuple[float, ...] = (-HOUR, HOUR)
    """By how many seconds a clock may jump."""
    forger: bool = False
    """Whether there is one more browser, whose cookies are all made up."""

    @classmethod
    def of(cls, seed: int) -> Shape:
        """Return the shape of a seed: mostly small clusters, since most mistakes show there."""
        random = Random(~seed)  # noqa: S311  (a schedule needs no secrecy)
        hosts = random.choice((2, 3, 3, 3, 3, 4, 5))
        if seed % 250 == 249:
            return cls(hosts=random.randint(12, 24), copies=3, browsers=6, faults=4)
        return cls(
            hosts=hosts,
            copies=random.choice((None, None, None, 2, 2, 3)) if hosts > 3 else None,
            acks=random.choice((1, 1, 1, 1, 1, 0, 2, None)),
            alone=random.choice(("accept", "accept", "accept", "refuse")),
            rounds=random.choice((1, 1, 2)),
            faults=random.choice((1, 2, 3, 5)),
            piece=random.choice((512, 512, 2)),
            repeats=random.choice((0.0, 0.0, 0.02)),
            framed=not seed % 4,
            tls=not seed % 3,
            joins=random.random() < 0.15,
            leaves=random.random() < 0.1 and hosts > 2,
            small=random.random() < 0.3,
            forger=random.random() < 0.1,
            **cls._ends(random),
        )

    @staticmethod
    def _ends(random: Random) -> dict[str, Any]:
        """Return how sessions end by themselves: mostly not while anybody looks."""
        if random.random() > 0.2:
            return {}
        idle = random.choice((1.0, 2.0, 4.0))
        lifetime = random.choice((2 * idle, 6.0, 30 * DAY))
        return {"idle": idle, "lifetime": lifetime, "touch": idle / 5, "jumps": (-0.7, -0.1, 0.1, 0.7)}

    def policy(self) -> Policy:
        """Return the policy by which sessions live here."""
        return Policy(idle_timeout=self.idle, lifetime=self.lifetime, touch_interval=self.touch, rotation_grace=GRACE)
