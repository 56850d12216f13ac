"""What goes wrong between a store and memcached, in words for whoever runs it. Pure."""

from __future__ import annotations

import ssl

from sojourn.errors import StoreUnavailable
from sojourn.store.memcached.protocol import ErrorReply, Malformed


def unavailable(server: str, error: BaseException, seconds: float) -> StoreUnavailable:
    """Return what to raise from *error*, which happened to a call that had so many *seconds*."""
    return StoreUnavailable(f"{server} {_what(error, seconds)}")


def _what(error: BaseException, seconds: float) -> str:
    match error:
        case TimeoutError():
            return f"did not answer within {seconds:g} s"
        case BlockingIOError():  # so much waits already that nothing was sent
            return f"cannot be asked: {error}"
        case ErrorReply():
            return f"answered {str(error)!r}{_cure(str(error))}"
        case Malformed():
            return f"sent what is no answer ({error}); see whether it is a memcached"
        case ssl.SSLCertVerificationError():
            return f"shows a certificate that is not trusted: {error.verify_message}; see ca= and the name in the URL"
        case ssl.SSLError():
            return f"could not be spoken to over TLS: {error.reason or error}; see whether it runs with -Z"
        case _:
            return f"cannot be reached: {error or type(error).__name__}; see whether it runs"


def _cure(answer: str) -> str:
    return next((cure for words, cure in _CURES if words in answer), "")


_CURES = [
    ("too large", "; its option -I is below max_item in the store URL: raise the one or lower the other"),
    ("out of memory", "; it is full and may not evict (-M), or large items fragment it: give it more memory (-m)"),
    ("unauthenticated", "; it wants a password (-Y, -S), which this store does not speak: use TLS or a closed network"),
    ("Too many open", "; let it take more (-c), or lower pool= in the store URL"),
    ("-C", "; start it without -C"),
]
