"""The session cookie: a token out of ``Cookie`` fields, and into one ``Set-Cookie`` line.

Rule 1: text in, text out. Nothing here knows what time it is or which framework is asking.
Rule 2: there is one way out, ``_line``. It checks every setting and the value again, so that no setter, copy
or pickle can put a line break or a second attribute into a response.
Rule 3: names are raw octets. Nothing is percent-decoded, unquoted or folded to one case: each of these has
forged a ``__Host-`` cookie in some server.
Rule 4: whatever a browser sends is a value, never an exception, and costs linear time.

Sources: "RFC 6265bis" is draft-ietf-httpbis-rfc6265bis-22. The two ``Http-`` prefixes come from
draft-ietf-httpbis-layered-cookies, ``Partitioned`` from draft-cutler-httpbis-partitioned-cookies.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from sojourn.errors import ConfigurationError, SessionTooLarge

__all__ = ["Cookie", "MAX_AGE_LIMIT", "PAIR_LIMIT", "ATTRIBUTE_LIMIT", "HEADER_LIMIT", "MOST_VALUES"]

MAX_AGE_LIMIT = 34_560_000  # seconds, 400 days; browsers cut longer lifetimes down to it (RFC 6265bis, 5.5)
PAIR_LIMIT = 4_096  # octets of name and value; a browser drops a larger cookie silently (RFC 6265bis, 5.7)
ATTRIBUTE_LIMIT = 1_024  # octets; a browser ignores a longer attribute, and the path becomes another one
HEADER_LIMIT = 65_536  # octets of all Cookie fields; servers refuse at 8 to 64 KiB, so this is never honest
MOST_VALUES = 4  # different tokens in one honest request: host-only, shared, partitioned, one to spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie:
    """How the session cookie is named and scoped. The defaults are the strictest that browsers know.

    A wrong setting raises ``ConfigurationError`` here: a browser would drop the cookie and tell nobody.
    """

    name: str = "__Host-sid"
    path: str = "/"
    domain: str | None = None
    """The domain whose hosts all get the cookie, without a leading dot; None for this one host only."""
    secure: bool = True
    http_only: bool = True
    same_site: Literal["Lax", "Strict", "None"] = "Lax"
    """Always sent: left to itself, a browser may let cross-site posts through for the first two minutes."""
    partitioned: bool = False
    """Keep one cookie for each top-level site that embeds this one; goes with ``same_site="None"``."""

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def insecure_dev(cls, **changes: Any) -> Self:
        """Return the cookie for plain http on a developer's machine: named ``sid`` and without ``Secure``.

        Anybody on the network path can read it and plant one. Search for this name before you deploy.
        """
        settings: dict[str, Any] = {"name": "sid", "secure": False, **changes}
        return cls(**settings)

    def read(self, headers: Iterable[str | bytes]) -> tuple[str, ...]:
        """Return the different values sent under this name, sorted, so that the browser's order has no say.

        *headers* holds the value of each ``Cookie`` field, also when there is only one; octets are taken as
        Latin-1. Pairs stand between semicolons and are split at their first ``=``; space and tab around a
        pair or its value are dropped, but none before the ``=``: that is another name. A value is returned as
        it came, quotes included, and may be anything.

        - None: no session was asked for.
        - Several: planted, or left behind by an earlier setting; nothing here tells which. Report it.
        - More than ``MOST_VALUES``: hostile; believe none. Which ones are returned then means nothing.

        Above ``HEADER_LIMIT`` octets in total nothing is read. Never raises. Fields that a gateway joined
        with commas are not split again: a comma may stand inside another cookie's value, and whoever can set
        that one would forge this one. (RFC 6265bis, 4.2 and 5.8.3; RFC 9113, 8.2.3)
        """
        found: list[str] = []
        wanted = self.name + "="
        room = HEADER_LIMIT
        for header in headers:
            room -= len(header)
            if room < 0:
                return ()
            _collect(header if isinstance(header, str) else header.decode("latin-1"), wanted, found)
        found.sort()
        return tuple(found)

    def issue(self, token: str, max_age: float | None = None, *, now: float | None = None) -> str:
        """Return the ``Set-Cookie`` value that hands *token* to the browser.

        Without *max_age* the cookie ends with the browser session. With it (seconds, at least 1, rounded
        down) *now* is needed too (seconds since the epoch), for an ``Expires`` that says the same. More than
        ``MAX_AGE_LIMIT`` is cut to it, as browsers do anyway; whoever holds the policy compares the two when
        it is built and warns there, because this file cannot.

        Raises ``SessionTooLarge`` if name and token exceed ``PAIR_LIMIT`` octets, and ``ValueError`` for a
        token that is empty or no cookie value and for a lifetime under a second. Neither shows the token.
        """
        if not token:
            raise ValueError("an empty token would never come back; use expire() to take the cookie away")
        return _line(self, token, "" if max_age is None else _lifetime(max_age, now))

    def expire(self) -> str:
        """Return the ``Set-Cookie`` value that makes the browser forget this cookie.

        It has the path, the domain and the partition of the cookie, or the browser would keep it, and the
        same flags, or the browser would refuse the line (RFC 6265bis, 5.7).
        """
        return _line(self, "", _PAST)

    def owns(self, set_cookie: str | bytes) -> bool:
        """Say whether a ``Set-Cookie`` value sets a cookie of this name, whatever its path or domain.

        A response must not hold two of them (RFC 6265bis, 4.1.1): drop each that is owned before adding one.
        """
        text = set_cookie if isinstance(set_cookie, str) else set_cookie.decode("latin-1")
        return text.partition("=")[0].strip(_BLANK) == self.name


# -- reading -----------------------------------------------------------------------------------------------

_BLANK = " \t"  # a bare strip() also drops U+00A0 and its like: a planted "\xa0__Host-sid" would become ours


def _collect(header: str, wanted: str, found: list[str]) -> None:
    """Add to *found* each new value that follows *wanted*, which is ``name=``, where it opens a pair.

    Each search begins where the last pair ended and looks back no further, so however hostile a header is,
    no octet is passed more than a few times. Other pairs are not looked into, malformed or not.
    """
    start = 0
    while (at := header.find(wanted, start)) >= 0 and len(found) <= MOST_VALUES:
        opening = header.rfind(";", 0, at) + 1
        end = header.find(";", at)
        if end < 0:
            end = len(header)
        if opening == at or not header[opening:at].strip(_BLANK):
            value = header[at + len(wanted) : end].strip(_BLANK)
            if value not in found:
                found.append(value)
        start = end + 1


# -- writing -----------------------------------------------------------------------------------------------

_PAST = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Our own names of days and months, because those of strftime follow the locale.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _line(cookie: Cookie, value: str, lifetime: str) -> str:
    _check(cookie)
    _check_value(cookie.name, value)
    parts = (
        cookie.name + "=" + value,
        "Path=" + cookie.path,
        "" if cookie.domain is None else "Domain=" + cookie.domain,
        lifetime,
        "Secure" if cookie.secure else "",
        "HttpOnly" if cookie.http_only else "",
        "SameSite=" + cookie.same_site,
        "Partitioned" if cookie.partitioned else "",
    )
    return "; ".join(filter(None, parts))


def _check_value(name: str, value: str) -> None:
    if not _is(value, _OCTETS):
        raise ValueError("the token is no cookie value: encode it, for instance as base64url")
    if (size := len(name) + len(value)) > PAIR_LIMIT:
        raise SessionTooLarge("", f"its cookie would have {size} octets; browsers drop any over {PAIR_LIMIT}")


def _lifetime(max_age: float, now: float | None) -> str:
    if now is None:
        raise ValueError("max_age needs now, the time it counts from")
    if not max_age >= 1:  # so written, it refuses NaN too
        raise ValueError(f"max_age={max_age} would end the cookie at once; use expire()")
    seconds = int(min(max_age, MAX_AGE_LIMIT))
    return f"Max-Age={seconds}; Expires={_imf_fixdate(int(now) + seconds)}"


def _imf_fixdate(seconds: int) -> str:
    """Write seconds since the epoch as ``Sun, 06 Nov 1994 08:49:37 GMT`` (RFC 9110, 5.6.7)."""
    at = _EPOCH + timedelta(seconds=seconds)
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    return f"{day}, {at.day:02} {month} {at.year:04} {at.hour:02}:{at.minute:02}:{at.second:02} GMT"


# -- checking ----------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # token (RFC 9110, 5.6.2)
_OCTETS = re.compile(r"[\x21\x23-\x2B\x2D-\x3A\x3C-\x5B\x5D-\x7E]*")  # *cookie-octet (RFC 6265bis, 4.1.1)
_LABEL = r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")  # subdomain (RFC 1034, 3.5; RFC 1123, 2.1)
_HOST_LIMIT = 253  # octets of a host name in text (RFC 1035, 2.3.4)

# What a browser demands of a cookie whose name begins so (RFC 6265bis, 4.1.3); a longer prefix stands first.
_PREFIXES: Mapping[str, Mapping[str, object]] = {
    "__Host-Http-": {"secure": True, "http_only": True, "path": "/", "domain": None},
    "__Host-": {"secure": True, "path": "/", "domain": None},
    "__Http-": {"secure": True, "http_only": True},
    "__Secure-": {"secure": True},
}

# What each setting must be, and the cure. The first broken rule speaks, so that later ones may trust it.
_RULES: tuple[tuple[str, Callable[[Cookie], bool], str], ...] = (
    ("name", lambda c: _is(c.name, _TOKEN), "use only letters, digits and !#$%&'*+-.^_`|~"),
    ("name", lambda c: len(c.name) < PAIR_LIMIT, f"leave room for a token within {PAIR_LIMIT} octets"),
    ("name", lambda c: c.name.startswith(_prefix(c.name)), f"spell it {' or '.join(_PREFIXES)}"),
    ("path", lambda c: _is(c.path, _OCTETS), 'percent-encode blanks, controls, non-ASCII and " , ; \\'),
    ("path", lambda c: c.path.startswith("/"), "begin it with /, or a browser makes up its own"),
    ("path", lambda c: len(c.path) <= ATTRIBUTE_LIMIT, f"keep it within {ATTRIBUTE_LIMIT} octets"),
    ("domain", lambda c: c.domain is None or _is(c.domain, _HOST), "give a bare host name, or None"),
    ("domain", lambda c: len(c.domain or "") <= _HOST_LIMIT, f"keep it within {_HOST_LIMIT} octets"),
    ("secure", lambda c: type(c.secure) is bool, "give True or False"),
    ("http_only", lambda c: type(c.http_only) is bool, "give True or False"),
    ("partitioned", lambda c: type(c.partitioned) is bool, "give True or False"),
    ("same_site", lambda c: c.same_site in ("Lax", "Strict", "None"), 'give "Lax", "Strict" or "None"'),
    ("secure", lambda c: c.secure or c.same_site != "None", 'same_site="None" needs secure=True'),
    ("secure", lambda c: c.secure or not c.partitioned, "partitioned=True needs secure=True"),
)


def _check(cookie: Cookie) -> None:
    for setting, holds, cure in _RULES:
        if not holds(cookie):
            raise _wrong(cookie, setting, cure)
    prefix = _prefix(cookie.name)
    for setting, wanted in _PREFIXES.get(prefix, {}).items():
        if getattr(cookie, setting) != wanted:
            raise _wrong(cookie, setting, f"set it to {wanted!r}, or take a name without {prefix}")


def _prefix(name: str) -> str:
    """Return the prefix that browsers see in *name*, which they do in any case (RFC 6265bis, 5.4), or ""."""
    return next((prefix for prefix in _PREFIXES if name.lower().startswith(prefix.lower())), "")


def _is(text: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _wrong(cookie: Cookie, setting: str, cure: str) -> ConfigurationError:
    """Name the setting and the cure, with the value as ASCII and no longer than a log line bears."""
    shown = ascii(getattr(cookie, setting))
    return ConfigurationError(f"cookie {setting}={shown if len(shown) <= 60 else shown[:57] + '...'}: {cure}")
