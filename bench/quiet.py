"""Silence about how the private servers are set up, which is for speed and not for keeping sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_advice() -> Iterator[None]:
    """Let the stores log errors only."""
    log = logging.getLogger("sojourn.store")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
