"""Sessions for Python web applications that run on more than one node.

The public names, on one screen. Importing this imports nothing: a name brings its module when it is first used
(PEP 562), so that a command line or a settings file that needs one constant does not pay for the rest.
"""

TYPE_CHECKING = False  # type checkers take the name for true; importing it from typing costs more than all of this

if TYPE_CHECKING:
    from sojourn.codec import Codec
    from sojourn.core.capability import Indexed, Lockable, Purgeable, Scannable
    from sojourn.core.outcome import Event, Happened
    from sojourn.core.policy import DAY, HOUR, MINUTE, Policy
    from sojourn.core.principals import SessionInfo
    from sojourn.core.session import Session
    from sojourn.errors import (
        ConfigurationError,
        SessionBusy,
        SessionConflict,
        SessionNotFetched,
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
    "SessionInfo",
    "Policy",
    "Cookie",
    "Codec",
    "Event",
    "Happened",
    "Indexed",
    "Scannable",
    "Purgeable",
    "Lockable",
    "MINUTE",
    "HOUR",
    "DAY",
    "SojournError",
    "ConfigurationError",
    "StoreUnavailable",
    "SessionConflict",
    "SessionBusy",
    "SessionNotFetched",
    "SessionSealed",
    "SessionTooLarge",
    "ValueNotStorable",
    "ValueUnreadable",
]

_HOMES = {
    "SessionManager": "manager",
    "Session": "core.session",
    "SessionInfo": "core.principals",
    "Policy": "core.policy",
    "Cookie": "transport.cookie",
    "Codec": "codec",
    "Event": "core.outcome",
    "Happened": "core.outcome",
    "Indexed": "core.capability",
    "Scannable": "core.capability",
    "Purgeable": "core.capability",
    "Lockable": "core.capability",
    "MINUTE": "core.policy",
    "HOUR": "core.policy",
    "DAY": "core.policy",
}


def __getattr__(name: str) -> object:
    """Bring a public name from its module; the exceptions share one."""
    if name not in __all__:
        raise AttributeError(f"module 'sojourn' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  for the first use only

    value = globals()[name] = getattr(import_module(f"sojourn.{_HOMES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
