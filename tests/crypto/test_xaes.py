"""The cipher is the one of its specification, and agrees with a second way to compute it."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st
from tests.crypto.vectors import INVALID_TAGS, MODIFIED, VALID

from sojourn.crypto.xaes import Xaes256Gcm, derive

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"
TEXT = b"XAES-256-GCM"

# Test vectors of the specification, https://c2sp.org/XAES-256-GCM
PUBLISHED = [
    (b"\1" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
    (b"\3" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
]
ACCUMULATED = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"  # after 10,000 rounds


@pytest.mark.parametrize(("key", "context", "sealed"), PUBLISHED)
def test_the_vectors_of_the_specification(key: bytes, context: bytes, sealed: str) -> None:
    """The two differ in whether the doubling for the CMAC subkey carries."""
    cipher = Xaes256Gcm(key)
    assert cipher.encrypt(NONCE, TEXT, context).hex() == sealed
    assert cipher.decrypt(NONCE, bytes.fromhex(sealed), context) == TEXT


def test_the_accumulated_vector_of_the_specification() -> None:
    """Ten thousand random keys, nonces, plaintexts and contexts, drawn from SHAKE-128."""
    read, out = stream_of(hashlib.shake_128().digest(10_000 * (32 + 24 + 2 + 255 + 255))), hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = read(32), read(24)
        data, context = read(read(1)[0]), read(read(1)[0])
        cipher = Xaes256Gcm(key)
        sealed = cipher.encrypt(nonce, data, context)
        assert cipher.decrypt(nonce, sealed, context) == data
        out.update(sealed)
    assert out.hexdigest(32) == ACCUMULATED


def stream_of(data: bytes) -> Callable[[int], bytes]:
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        place += size
        return data[place - size : place]

    return read


@given(key=st.binary(min_size=32, max_size=32), nonce=st.binary(min_size=24, max_size=24), data=st.binary())
def test_it_agrees_with_the_library_s_cmac_and_gcm(key: bytes, nonce: bytes, data: bytes) -> None:
    halves = [cmac(key, b"\0" + bytes([counter]) + b"X\0" + nonce[:12]) for counter in (1, 2)]
    expected = AESGCM(b"".join(halves)).encrypt(nonce[12:], data, b"context")
    assert Xaes256Gcm(key).encrypt(nonce, data, b"context") == expected


def cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


class Gcm(Xaes256Gcm):
    """The cipher with a message key that a vector names, in place of the derived one."""

    def _message_key(self, half: bytes) -> bytes:
        return self.message_key

    def __init__(self, key: str) -> None:
        super().__init__(bytes(32))
        self.message_key = bytes.fromhex(key)


@pytest.mark.parametrize("number", VALID)
def test_valid_vectors_of_wycheproof_seal_and_open(number: int) -> None:
    key, *rest = VALID[number]
    nonce, context, data, sealed, tag = map(bytes.fromhex, rest)
    cipher = Gcm(key)
    assert cipher.encrypt(bytes(12) + nonce, data, context) == sealed + tag
    assert cipher.decrypt(bytes(12) + nonce, sealed + tag, context) == data


@pytest.mark.parametrize("number", INVALID_TAGS)
def test_invalid_vectors_of_wycheproof_do_not_open(number: int) -> None:
    key, *rest = MODIFIED
    nonce, context, data, sealed = map(bytes.fromhex, rest)
    right, wrong = Gcm(key).encrypt(bytes(12) + nonce, data, context), bytes.fromhex(INVALID_TAGS[number])
    assert right[:-16] == sealed
    assert right[-16:] != wrong
    assert Gcm(key).decrypt(bytes(12) + nonce, sealed + wrong, context) is None


@pytest.mark.parametrize("size", [0, 12, 23, 25])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        Xaes256Gcm(b"\1" * 32).encrypt(bytes(size), b"", b"")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Xaes256Gcm(bytes(size))


def test_threads_share_a_cipher() -> None:
    cipher = Xaes256Gcm(b"\1" * 32)

    def round_trips(number: int) -> bool:
        data = number.to_bytes(8, "big") * 50
        nonces = [os.urandom(24) for _ in range(300)]
        return all(cipher.decrypt(n, cipher.encrypt(n, data, b"here"), b"here") == data for n in nonces)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trips, range(32)))


def test_a_cipher_survives_a_fork() -> None:
    cipher = Xaes256Gcm(b"\1" * 32)
    sealed = cipher.encrypt(NONCE, TEXT, b"")
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, cipher.encrypt(NONCE, TEXT, b""))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        assert answer.read() == sealed
    os.waitpid(child, 0)


def test_derived_keys_are_those_of_rfc_5869() -> None:
    """Test case 3: no salt and no info; and with an info, as its two HMACs say."""
    assert derive(b"\x0b" * 22, b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    extracted = hmac.digest(bytes(32), b"\x0c" * 32, "sha256")
    assert derive(b"\x0c" * 32, b"info") == hmac.digest(extracted, b"info\1", "sha256")
