"""Keys for tests, the same each time and different from one another."""

from __future__ import annotations

import hashlib
from typing import Any

from sojourn.crypto.key import Key, generate_key


def secret(number: int = 1) -> bytes:
    return hashlib.sha256(f"a key for tests {number}".encode()).digest()


def key(number: int = 1, **times: Any) -> Key:
    return Key(secret(number), **times)


def text(number: int = 1) -> str:
    return generate_key(secret(number))
