"""Every exception that sojourn raises, one tree.

What a browser can cause is a value, never one of these. An exception here is for whoever runs or writes
the application, and says what happened and what to do about it. None carries a session id or a value.
"""


class SojournError(Exception):
    """Root of every exception that sojourn raises."""


class ConfigurationError(SojournError):
    """A setting is wrong, or something is not installed where it is asked for. Raised as early as it can be seen:

    for settings, when the object that holds them is built.
    """


class StoreUnavailable(SojournError):
    """The store cannot answer. That is not "no such session": the visitor may well have one.

    Adapters answer 503 with ``Retry-After`` and leave the cookie and the data as they are. The driver's own
    error is kept as ``__cause__``.
    """

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Whole seconds after which a client may try again."""


class SessionBusy(SojournError):
    """Another request held the session exclusively for longer than this one was willing to wait.

    Adapters answer 503 with ``Retry-After``. Nothing was stored.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Whole seconds after which a client may try again."""


class SessionNotFetched(SojournError, RuntimeError):
    """The session was looked at on a path that is excluded from fetching, where a look cannot wait for the store.

    Use ``await session.fetch()`` first, or the framework's awaited dependency.
    """


class SessionConflict(SojournError):
    """A commit lost against parallel requests and policy forbids to overwrite them, or it lost too often.

    Nothing of the commit was stored. Adapters answer 409 Conflict.
    """

    def __init__(self, message: str, *, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys
        """The session keys that both requests changed; empty when attempts ran out."""


class SessionSealed(SojournError, RuntimeError):
    """The session was changed after it was committed, when its cookie and data had already gone out.

    Change it before the response begins, or use ``session.reopen()`` and ``session.save()``.
    """


class ValueNotStorable(SojournError, TypeError):
    """A value in the session has a type (or a size, or a depth) that cannot be stored; the message names its path."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"session{path} cannot be stored: {why}")
        self.path = path
        """Where in the session the value stands, such as ``['cart'][2]['price']``."""


class SessionTooLarge(ValueNotStorable):
    """The session, one of its values or its cookie exceeds a bound. Raised before any I/O; nothing was stored."""


class ValueUnreadable(SojournError, ValueError):
    """A stored value cannot be decoded here, most often because a type is no longer registered.

    Only the key that was asked for is affected, and its bytes are kept as they are.
    """
