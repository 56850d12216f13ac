"""SessionId: the public half goes to the browser, the private half is all that a store ever sees."""

from __future__ import annotations

import binascii
import hashlib
import re

ID_BYTES = 32  # 256 random bits; OWASP ASVS 5.0 asks for at least 128

# 32 bytes are 42 base64url characters and four more bits, so only sixteen last characters are canonical.
# Refusing the others gives each id one spelling.
_PUBLIC = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)


class SessionId:
    """An id in its two halves. Neither is shown in full by ``repr``.

    The private half is a SHA-256 hash, so that a stolen store opens no session and the time that an index
    lookup takes says nothing about ids (CVE-2019-16782).
    """

    __slots__ = ("private", "public")

    public: str
    """43 base64url characters: what the browser holds."""
    private: bytes
    """32 bytes: the key that stores use."""

    def __init__(self, public: str, namespace: str) -> None:
        self.public = public
        self.private = hashlib.sha256(f"{namespace}\0{public}".encode()).digest()

    @classmethod
    def parse(cls, text: str, namespace: str = "") -> SessionId | None:
        """Return the id that *text* spells, or None. A malformed id therefore costs no store call."""
        return cls(text, namespace) if _PUBLIC.fullmatch(text) else None

    @classmethod
    def from_random(cls, random: bytes, namespace: str = "") -> SessionId:
        """Return a fresh id made of 32 *random* bytes. *namespace* keeps applications on one store apart."""
        if len(random) != ID_BYTES:
            raise ValueError(f"an id takes {ID_BYTES} random bytes, not {len(random)}")
        public = binascii.b2a_base64(random, newline=False).translate(_URL_SAFE, b"=")
        return cls(public.decode("ascii"), namespace)

    @property
    def handle(self) -> str:
        """A short name for logs. It opens nothing and cannot be turned back into the id."""
        return handle_of(self.private)

    def __repr__(self) -> str:
        return f"<SessionId {self.handle}>"


def handle_of(key: bytes) -> str:
    """Return the log-safe name of a private key: the ends of its hexadecimal form."""
    text = key.hex()
    return f"{text[:6]}…{text[-2:]}"


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
