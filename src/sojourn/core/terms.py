"""Terms: what a commit goes by, brought in from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from sojourn.core.delta import Resolver
from sojourn.core.ids import SessionId
from sojourn.core.policy import Policy


class Terms(NamedTuple):
    """What a commit goes by: the policy, the resolvers, the time (epoch seconds) and a source of fresh ids.

    *tag_of* names a principal's index; None where the store has none.
    """

    policy: Policy
    now: float
    new_id: Callable[[], SessionId]
    resolvers: Mapping[str, Resolver] = MappingProxyType({})
    tag_of: Callable[[str], bytes] | None = None
