"""Sessions for Python web applications that run on more than one node.

The public names, on one screen. Importing this imports no driver and no framework.
"""

from sojourn.codec import Codec
from sojourn.connect import connect
from sojourn.core.outcome import Event, Happened
from sojourn.core.policy import DAY, HOUR, MINUTE, Policy
from sojourn.core.session import Session
from sojourn.errors import (
    ConfigurationError,
    SessionConflict,
    SessionSealed,
    SessionTooLarge,
    SojournError,
    StoreUnavailable,
    ValueNotStorable,
    ValueUnreadable,
)
from sojourn.manager import SessionManager
from sojourn.transport.cookie import Cookie

__all__ = [
    "SessionManager",
    "Session",
    "Policy",
    "Cookie",
    "Codec",
    "connect",
    "Event",
    "Happened",
    "MINUTE",
    "HOUR",
    "DAY",
    "SojournError",
    "ConfigurationError",
    "StoreUnavailable",
    "SessionConflict",
    "SessionSealed",
    "SessionTooLarge",
    "ValueNotStorable",
    "ValueUnreadable",
]
