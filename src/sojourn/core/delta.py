"""Delta: what one request set and removed, and how it merges into what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

Resolver = Callable[[bytes | None, bytes | None, bytes | None], bytes | None]
"""Decides a conflict from the encoded values as read, found and written; None stands for no such key."""


_NONE: Mapping[str, bytes] = MappingProxyType({})


class Delta(NamedTuple):
    """The top-level keys that one request set (to encoded values) and removed."""

    set: Mapping[str, bytes] = _NONE
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.set or self.removed)

    def __repr__(self) -> str:
        return f"<Delta sets {sorted(self.set)}, removes {sorted(self.removed)}>"

    def written(self, key: str) -> bytes | None:
        """Return the value that this delta gives *key*; None when it removes it."""
        return self.set.get(key)


class Merged(NamedTuple):
    """The values after a merge, and the keys on which last-commit-wins had to decide."""

    values: dict[str, bytes]
    conflicts: tuple[str, ...] = ()


def apply(values: Mapping[str, bytes], delta: Delta) -> dict[str, bytes]:
    """Return *values* with *delta* on top."""
    after = {**values, **delta.set}
    for key in delta.removed:
        after.pop(key, None)
    return after


def merge(
    read: Mapping[str, bytes],
    found: Mapping[str, bytes],
    delta: Delta,
    resolvers: Mapping[str, Resolver],
) -> Merged:
    """Return *found* with *delta* on top, where *delta* was made by a request that had seen *read*.

    Keys that only one side changed are never in conflict. A key that both changed goes to its resolver; without
    one the delta wins and the key is named. Lists and nested maps are values like any other: merging them by
    guess brings back removed items and loses order.
    """
    values = apply(found, delta)
    conflicts: list[str] = []
    if found is read:
        return Merged(values)
    for key in (*delta.set, *delta.removed):
        before, theirs, ours = read.get(key), found.get(key), delta.written(key)
        if theirs == before:
            continue
        if resolver := resolvers.get(key):
            # Also where both wrote the same: two requests that each add one to ten have both written eleven.
            _put(values, key, resolver(before, theirs, ours))
        elif theirs != ours:
            conflicts.append(key)
    return Merged(values, tuple(conflicts))


def _put(values: dict[str, bytes], key: str, value: bytes | None) -> None:
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value
