"""Sealed bytes: one format, one way to open it, and one answer for whatever does not open.

    offset  0   version of the format, 1 byte
            1   id of the key, 4 bytes
            5   nonce, 24 random bytes
           29   ciphertext, as long as what was sealed, and a tag of 16 bytes

The cipher is XAES-256-GCM under a key derived for one purpose, application and tenant. Authenticated with it are
version, key id, these three names and whatever the caller says of the place where the bytes belong. The text form is
base64url without padding, in the one spelling that encoding gives.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from sojourn.crypto.keyring import Key, KeyRing
from sojourn.crypto.xaes import NONCE_BYTES, TAG_BYTES, Xaes256Gcm

VERSION = 1
OVERHEAD = 1 + 4 + NONCE_BYTES + TAG_BYTES
"""Bytes by which sealing makes data longer."""

_VERSION = bytes([VERSION])
_NONCE_AT = 5
_DATA_AT = _NONCE_AT + NONCE_BYTES


class Refused(Enum):
    """Why sealed bytes do not open: for logs and counters. Whoever presented them hears nothing of it."""

    NOT_SEALED = "it is not sealed, or in another format"
    UNKNOWN_KEY = "it is sealed with a key that is not in the ring"
    REVOKED_KEY = "it is sealed with a key that is revoked"
    NOT_AUTHENTIC = "it is damaged, or was sealed for another place"


class _Suite(NamedTuple):
    """What one key of the ring seals and opens with."""

    cipher: Xaes256Gcm
    head: bytes
    scope: bytes


class Sealer:
    """Seals and opens for one *purpose* of one *application* and *tenant*: what another one sealed does not open."""

    def __init__(self, ring: KeyRing, purpose: str, application: str = "", tenant: str = "") -> None:
        self._ring = ring
        self._names = (purpose, application, tenant)
        self._info = "/".join(("sojourn/v1", *map(_escaped, self._names))).encode()
        self._suites: dict[bytes, _Suite] = {}  # as many as the ring has keys

    def seal(self, data: bytes, place: Iterable[bytes], nonce: bytes, now: float) -> bytes:
        """Return *data* sealed for *place*: the bytes strings that :meth:`open` has to be given again.

        *nonce* is 24 fresh random bytes, *now* the time in epoch seconds, which chooses the key. Raises
        ConfigurationError where no key is active.
        """
        cipher, head, scope = self._suite(self._ring.writing_key(now))
        return head + nonce + cipher.encrypt(nonce, data, scope + _listed(place))

    def open(self, sealed: bytes, place: Iterable[bytes]) -> bytes | None:
        """Return what was sealed for *place*, or None, whatever the reason. An unknown key costs no decryption."""
        if sealed[:1] != _VERSION or len(sealed) < OVERHEAD:
            return None
        key = self._ring.reading_key(sealed[1:_NONCE_AT])
        if key is None:
            return None
        cipher, _, scope = self._suite(key)
        return cipher.decrypt(sealed[_NONCE_AT:_DATA_AT], sealed[_DATA_AT:], scope + _listed(place))

    def why(self, sealed: bytes) -> Refused:
        """Return why :meth:`open` gave None for *sealed*, for a log. Nothing is decrypted for it."""
        if sealed[:1] != _VERSION or len(sealed) < OVERHEAD:
            return Refused.NOT_SEALED
        id = sealed[1:_NONCE_AT]
        if self._ring.reading_key(id):
            return Refused.NOT_AUTHENTIC
        return Refused.REVOKED_KEY if self._ring.knows(id) else Refused.UNKNOWN_KEY

    def _suite(self, key: Key) -> _Suite:
        suite = self._suites.get(key.id)
        if suite is None:
            head = _VERSION + key.id
            scope = head + _listed(name.encode() for name in self._names)
            suite = self._suites[key.id] = _Suite(Xaes256Gcm(key.derive(self._info)), head, scope)
        return suite

    def __repr__(self) -> str:
        return f"<Sealer {self._info.decode()} of {self._ring!r}>"


def to_text(sealed: bytes) -> str:
    """Return *sealed* in base64url without padding."""
    return binascii.b2a_base64(sealed, newline=False).translate(_URL_SAFE, b"=").decode("ascii")


def from_text(text: str) -> bytes | None:
    """Return the bytes that *text* spells, or None where it is not the very text that :func:`to_text` gives."""
    try:
        plain = text.encode("ascii").translate(_NOT_URL_SAFE)
        sealed = binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
    except ValueError:
        return None
    return sealed if to_text(sealed) == text else None


def _listed(parts: Iterable[bytes]) -> bytes:
    """Return *parts* as bytes from which no other parts can be read: each has its length before it."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])


def _escaped(name: str) -> str:
    """Return *name* without a slash, so that no two triples of names are one text."""
    return name.replace("%", "%25").replace("/", "%2F")


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_NOT_URL_SAFE = bytes.maketrans(b"-_", b"+/")
