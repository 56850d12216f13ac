"""What a response must say to caches when a session was looked at, or when its cookie is set.

Rule 1: text in, text out. The adapters own the headers and hand over all values of a field, in order.
Rule 2: ``Vary`` alone is not trusted with a cookie, because caches have got it wrong. A response that sets
one also forbids every shared cache to keep it; ``Set-Cookie`` itself forbids nothing (RFC 6265bis, 3).
"""

import re
from collections.abc import Sequence

__all__ = ["vary", "forbid_shared_caching", "overrides_cache_control"]

_PLAIN = re.compile(r"[!#$%&'*+\-.^_`|~\w]+(?:=[!#$%&'*+\-.^_`|~\w]+)?", re.ASCII)  # token [ "=" token ]


def vary(existing: Sequence[str]) -> str | None:
    """Return the one ``Vary`` value to send in place of *existing*, or None if it need not change.

    For every response to a request that looked at the session in any way. ``*`` stays as it is: it already
    keeps the response from every later request (RFC 9110, 12.5.5).
    """
    members = _members(existing)
    if any(member == "*" or member.lower() == "cookie" for member in members):
        return None
    return ", ".join([*members, "Cookie"])


def forbid_shared_caching(existing: Sequence[str]) -> str:
    """Return the one ``Cache-Control`` value to send in place of *existing* with the session cookie.

    It is ``no-store``, unless the application itself said ``private``: then its wish is kept, but without
    ``public`` and ``s-maxage``. ``private="set-cookie"`` is no such wish, it lets a shared cache keep the
    rest of the page. A value with quotes or anything malformed is never kept: caches disagree about where it
    splits, and the ``private`` that one of them sees is quoted text to the next (RFC 9111, 5.2.2).
    """
    members = _members(existing)
    if "private" not in map(str.lower, members) or not all(map(_PLAIN.fullmatch, members)):
        return "no-store"
    return ", ".join(member for member in members if not _shares(member))


def overrides_cache_control(field_name: str) -> bool:
    """Say whether a response field makes some shared cache disregard ``Cache-Control``.

    Drop such a field from a response that sets the session cookie: a delivery network would believe it more
    than our ``no-store`` (RFC 9213, 2.2; also ``Surrogate-Control`` and nginx's ``X-Accel-Expires``).
    """
    name = field_name.lower()
    return name.endswith("-cache-control") or name in ("surrogate-control", "x-accel-expires")


def _members(fields: Sequence[str]) -> list[str]:
    """Return the members of a list field (RFC 9110, 5.6.1), splitting inside quotes too."""
    trimmed = (member.strip(" \t") for field in fields for member in field.split(","))
    return [member for member in trimmed if member]


def _shares(directive: str) -> bool:
    name, argued, _ = directive.lower().partition("=")
    return name in ("public", "s-maxage") or (name == "private" and bool(argued))
