"""What can be chosen about a demo, checked when built."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn.connect import connect
from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import BALANCERS
from sojourn.lab.urls import is_replicated, settings_in

MOST_NODES = 9  # each is a Python process of about 50 MB, and has a colour of its own on the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How many nodes, where sessions live, which balancer, and its port (0: any free one).

    Raises ConfigurationError, naming the setting and the cure.
    """

    nodes: int = 3
    store: str = "local:"
    balancer: str = "caddy"
    port: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MOST_NODES:
            raise ConfigurationError(f"nodes={self.nodes}: give a number from 1 to {MOST_NODES}")
        if not 0 <= self.port < 65536:
            raise ConfigurationError(f"port={self.port}: give a number up to 65535, or 0 for any free port")
        if self.balancer not in BALANCERS:
            raise ConfigurationError(f"balancer={self.balancer!r}: give one of {', '.join(BALANCERS)}")
        if self.store.startswith("memory:") and self.nodes > 1:
            raise ConfigurationError(
                f"store=memory: keeps sessions inside one process, so each of {self.nodes} nodes would have its own; "
                "use --store local:, or --nodes 1"
            )
        if is_replicated(self.store):
            settings_in(self.store)  # raises for a wrong setting
        else:
            connect(self.store)  # raises for an unknown scheme, a missing driver, a wrong setting in the URL
