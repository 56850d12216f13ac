"""XAES-256-GCM and HKDF: the only file that imports ``cryptography``.

AES-GCM with random nonces of 12 bytes has to stop after 2**32 messages under one key (NIST SP 800-38D, 8.3), and all
nodes of a cluster share the key. XAES-256-GCM takes 24 bytes: half of them derive a key for this one message, the other
half are its GCM nonce, so 2**80 messages are safe. https://c2sp.org/XAES-256-GCM
"""

from __future__ import annotations

import threading
from operator import xor
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16

_HALF = NONCE_BYTES // 2
_REDUCTION = 0x87  # of the field that CMAC doubles in: x**128 + x**7 + x**2 + x + 1 (NIST SP 800-38B, 5.3)
_ONE, _TWO = b"\0\x01X\0", b"\0\x02X\0"  # counter in 16 bits, the label X, a zero (NIST SP 800-108r1, 4.1)


def derive(secret: bytes, info: bytes) -> bytes:
    """Return the 32-byte key that *secret* yields for *info*: HKDF-SHA-256 without a salt (RFC 5869)."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


class Xaes256Gcm:
    """The cipher under one key of 32 bytes. Safe for use by several threads."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key takes {KEY_BYTES} bytes, not {len(key)}")
        self._block = Cipher(AES(key), ECB())  # noqa: S305  single blocks, as CMAC uses them
        self._per_thread = threading.local()
        doubled = int.from_bytes(self._encrypt_blocks(bytes(16)), "big") << 1
        subkey = (doubled ^ _REDUCTION if doubled >> 128 else doubled) & (1 << 128) - 1
        mask = subkey.to_bytes(16, "big")
        self._first, self._second = (bytes(map(xor, block, mask)) for block in (_ONE, _TWO))
        self._mask = int.from_bytes(mask[-_HALF:], "big")

    def encrypt(self, nonce: bytes, data: bytes, context: bytes) -> bytes:
        """Return *data* encrypted, and the tag that authenticates it and *context*. One *nonce* serves once."""
        return self._cipher(nonce).encrypt(nonce[_HALF:], data, context)

    def decrypt(self, nonce: bytes, data: bytes, context: bytes) -> bytes | None:
        """Return what *data* holds, or None for whatever was not made by :meth:`encrypt` with these arguments."""
        try:
            return self._cipher(nonce).decrypt(nonce[_HALF:], data, context)
        except InvalidTag:
            return None

    def _cipher(self, nonce: bytes) -> AESGCM:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce takes {NONCE_BYTES} bytes, not {len(nonce)}")
        return AESGCM(self._message_key(nonce[:_HALF]))

    def _message_key(self, half: bytes) -> bytes:
        masked = (int.from_bytes(half, "big") ^ self._mask).to_bytes(_HALF, "big")
        return self._encrypt_blocks(self._first + masked + self._second + masked)

    def _encrypt_blocks(self, blocks: bytes) -> bytes:
        # To make an encryptor costs more than the whole rest, so each thread keeps one: they are not to be shared.
        encryptor: _Encryptor | None = getattr(self._per_thread, "encryptor", None)
        if encryptor is None:
            encryptor = self._per_thread.encryptor = self._block.encryptor()
        return encryptor.update(blocks)


class _Encryptor(Protocol):
    def update(self, data: bytes) -> bytes: ...
