"""Key: one master secret of 32 random bytes, its id and its times; and the text that it is written in.

    sojourn-key-1:<32 bytes in base64url>  active=2026-05-01T12:00:00Z  retired=2026-08-01T00:00:00Z  revoked  # why

One key a line. All but the first word is optional: a key without ``active`` has always been active. In place of the
first word stands any 32 random bytes in base64 or hexadecimal.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from datetime import UTC, datetime
from enum import Enum
from itertools import pairwise
from typing import NoReturn

from sojourn.errors import ConfigurationError

SECRET_BYTES = 32
ID_BYTES = 4
PREFIX = "sojourn-key-1:"
CURE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


class State(Enum):
    """What a key of a ring does. It moves down this list, and never up."""

    DISTRIBUTED = "distributed"
    """On its way to all nodes: opens what a node whose clock is ahead has sealed, and seals nothing yet."""
    ACTIVE = "active"
    """Seals and opens. One key at a time."""
    OPEN_ONLY = "open-only"
    """Opens what it has sealed; a newer key seals."""
    REVOKED = "revoked"
    """Opens nothing any more."""


class Key:
    """One master secret. It never leaves the object: what others get are keys derived for one purpose each.

    From *activate_at* on it may seal, and from *retire_at* on it may not; both are seconds since the epoch.
    Raises ConfigurationError for a secret that is short, or that somebody could guess.
    """

    __slots__ = ("_secret", "activate_at", "id", "retire_at", "revoked")

    def __init__(
        self, secret: bytes, activate_at: float = 0.0, retire_at: float | None = None, revoked: bool = False
    ) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigurationError(f"a key has {SECRET_BYTES} random bytes, and this one {len(secret)}; {CURE}")
        if weakness := _weakness_of_bytes(secret):
            raise ConfigurationError(f"the key {weakness}; {CURE}")
        if retire_at is not None and retire_at <= activate_at:
            raise ConfigurationError("the key is retired before it becomes active: correct its two times")
        self._secret = secret
        self.id = hashlib.sha256(b"sojourn/v1/key-id\0" + secret).digest()[:ID_BYTES]
        """Four bytes that name it in what it seals. They follow from the secret, so that nodes cannot disagree."""
        self.activate_at = activate_at
        self.retire_at = retire_at
        self.revoked = revoked

    @property
    def name(self) -> str:
        """The id in hexadecimal, for lists and logs."""
        return self.id.hex()

    def may_seal(self, now: float) -> bool:
        """Tell whether it may seal at *now*; in a ring only the newest such key does."""
        return not self.revoked and self.activate_at <= now and (self.retire_at is None or now < self.retire_at)

    def derive(self, info: bytes) -> bytes:
        """Return the 32-byte key for the purpose that *info* names. Needs ``cryptography``."""
        from sojourn.crypto.xaes import derive  # noqa: PLC0415  keys can be listed and checked without it

        return derive(self._secret, info)

    def __repr__(self) -> str:
        return f"<Key {self.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Key is not pickled: its secret would lie wherever the pickle does")


def generate_key(random: bytes) -> str:
    """Return the text of the key made of 32 *random* bytes, to be put into a file or a vault.

    Raises ConfigurationError for bytes that are not random.
    """
    text = PREFIX + binascii.b2a_base64(random, newline=False).translate(_URL_SAFE, b"=").decode("ascii")
    parse_key(text)
    return text


def parse_key(line: str | bytes) -> Key:
    """Return the key that *line* describes. Raises ConfigurationError, which never quotes the line."""
    if isinstance(line, bytes):
        if len(line) == SECRET_BYTES:
            return Key(line)
        line = line.decode("ascii", "replace")
    text, *settings = line.partition("#")[0].split() or [""]
    secret = _secret_of(text)
    times: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in times or name not in ("active", "retired", "revoked") or (name == "revoked" and value):
            raise ConfigurationError("after the key come active=TIME, retired=TIME and revoked, each at most once")
        times[name] = 0.0 if name == "revoked" else parse_time(value)
    return Key(secret, times.get("active", 0.0), times.get("retired"), "revoked" in times)


def parse_time(text: str) -> float:
    """Return the seconds since the epoch that *text* names, such as ``2026-05-01T12:00:00Z``."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError("a time of the key is none, or has no zone; write it as 2026-05-01T12:00:00Z")
    return moment.timestamp()


def format_time(seconds: float) -> str:
    """Return a time as a key's line has it, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


# -- what is no key ------------------------------------------------------------------------------------------------

_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_BASE64 = re.compile(r"(?:[A-Za-z0-9_-]{43}|[A-Za-z0-9+/]{43})=?", re.ASCII)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_NOT_URL_SAFE = str.maketrans("-_", "+/")

_WORDS = ("changeme", "replaceme", "password", "passphrase", "secret", "example", "default", "insecure", "qwerty")

# SHA-256 of secrets that stand in specifications and tutorials: NIST SP 800-38A F.1.5, the Fernet specification.
_PUBLISHED = frozenset(
    {
        "b93c72b74bc8487d29827005f80d635918f91bc22b14d7ed05714d58f96702dd",
        "cbeb362f1fa69a6691db592f4529cf6bea1ce089eb132a3350c9081279ff8f34",
    }
)


def _secret_of(text: str) -> bytes:
    typed = not text.startswith(PREFIX)
    text = text.removeprefix(PREFIX)
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if not _BASE64.fullmatch(text):
        raise ConfigurationError(f"a key is {SECRET_BYTES} random bytes in base64 or hexadecimal; {CURE}")
    if weakness := _weakness_of_text(text, typed):
        raise ConfigurationError(f"the key {weakness}; {CURE}")
    plain = text.rstrip("=").translate(_NOT_URL_SAFE)
    secret = binascii.a2b_base64(plain + "=")
    if binascii.b2a_base64(secret, newline=False).decode("ascii") != plain + "=":
        raise ConfigurationError(f"the key is cut off, or was not made as base64 of {SECRET_BYTES} bytes; {CURE}")
    return secret


def _weakness_of_text(text: str, typed: bool) -> str | None:
    """Say what gives base64 away as words. Of a million random keys it refused five."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    if found := [word for word in _WORDS if word in plain]:
        return f"contains the word {found[0]!r}"
    kinds = ["U" if letter.isupper() else "l" if letter.islower() else "-" for letter in text.rstrip("=")]
    changes = sum(one != other for one, other in pairwise(kinds))
    if typed and (changes < 10 or (changes < 16 and "-" not in kinds)):
        return "is a phrase"
    return None


def _weakness_of_bytes(secret: bytes) -> str | None:
    """Say why nobody's random generator made *secret*. Of a thousand million random ones less than one is refused."""
    steps = {(later - earlier) % 256 for earlier, later in pairwise(secret)}
    if any(secret == (secret[:period] * SECRET_BYTES)[:SECRET_BYTES] for period in range(1, SECRET_BYTES // 2 + 1)):
        return "repeats itself"
    if len(set(secret)) < 16 or len(steps) < 12:
        return "follows a pattern"
    if all(32 <= byte < 127 for byte in secret):
        return "is readable text and not random bytes"
    if hashlib.sha256(secret).hexdigest() in _PUBLISHED:
        return "stands in a specification, for all to read"
    return None
