"""A store URL on the command line, or in the environment."""

from __future__ import annotations

import os

from sojourn.errors import ConfigurationError

ENVIRONMENT = "env:"  # so that a password stands neither in the list of processes nor in the shell's history


def url_in(text: str) -> str:
    """Return the store URL that *text* is, or names as ``env:NAME``. Raises ConfigurationError."""
    if not text.startswith(ENVIRONMENT):
        return text
    name = text.removeprefix(ENVIRONMENT)
    if not (url := os.environ.get(name)):
        raise ConfigurationError(f"the environment has no variable {name!r}, or it is empty")
    return url
