"""An Outcome into a response's headers: Vary, Set-Cookie, Cache-Control. Pure; the adapters own the headers."""

from __future__ import annotations

from collections.abc import Sequence

from sojourn.core.floor import spell
from sojourn.core.outcome import Action, Outcome
from sojourn.transport.caching import forbid_shared_caching, overrides_cache_control, vary
from sojourn.transport.cookie import Cookie

Headers = list[tuple[str, str]]


def tell(outcome: Outcome, headers: Headers, cookie: Cookie, now: float) -> Headers:
    """Return the response's *headers* with what the *outcome* asks for at *now*, in epoch seconds."""
    headers = _merged(headers, "vary", vary(_values(headers, "vary")))
    if outcome.action is Action.KEEP:
        return headers
    if outcome.action is Action.ISSUE:
        assert outcome.id is not None
        line = cookie.issue(spell(outcome.id, outcome.floor), outcome.cookie_age, now=now)
    else:
        line = cookie.expire()
    headers = _merged(headers, "cache-control", forbid_shared_caching(_values(headers, "cache-control")))
    return [*(field for field in headers if not _is_undone_by(cookie, *field)), ("set-cookie", line)]


def _is_undone_by(cookie: Cookie, name: str, value: str) -> bool:
    """Tell whether a field of the application's would set our cookie too, or overrule its ``no-store``."""
    return overrides_cache_control(name) or (name.lower() == "set-cookie" and cookie.owns(value))


def _values(headers: Headers, name: str) -> Sequence[str]:
    return [value for key, value in headers if key.lower() == name]


def _merged(headers: Headers, name: str, value: str | None) -> Headers:
    """Return *headers* with one field *name*; as they are when there is nothing to change."""
    if value is None:
        return headers
    return [*(field for field in headers if field[0].lower() != name), (name, value)]
