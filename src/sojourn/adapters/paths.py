"""Path patterns: which requests an adapter treats differently."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sojourn.errors import ConfigurationError


class PathPatterns:
    """Patterns of whole paths, such as ``("/static/*", "/healthz")``, compiled once. ``path in patterns`` asks.

    ``*`` stands for any characters or none, slashes too; everything else for itself. *setting* is what the
    application calls them. Raises ConfigurationError.
    """

    def __init__(self, setting: str, patterns: Iterable[str]) -> None:
        if isinstance(patterns, str):
            raise ConfigurationError(f"{setting} is the text {patterns!r}; give a tuple of patterns: ({patterns!r},)")
        self._match = re.compile(
            "|".join(_expression(setting, pattern) for pattern in patterns) or "(?!)", re.DOTALL
        ).fullmatch

    def __contains__(self, path: str) -> bool:
        return self._match(path) is not None


def _expression(setting: str, pattern: object) -> str:
    """Return *pattern* as a regular expression. Each ``*`` takes its first fit for good: long paths cost no more."""
    if not (isinstance(pattern, str) and pattern.startswith(("/", "*"))):
        raise ConfigurationError(f"{setting} has {pattern!r}; a pattern is a str that begins with '/' or '*'")
    first, *rest = map(re.escape, pattern.split("*"))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last
