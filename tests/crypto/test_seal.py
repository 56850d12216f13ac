"""Sealed bytes open with the right key, for the right place, as they were made; and for nothing else, in silence."""

from __future__ import annotations

import base64
import itertools
import json
import logging
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crypto.keys import key

from sojourn.crypto.keyring import KeyRing
from sojourn.crypto.seal import OVERHEAD, Refused, Sealer, from_text, to_text
from sojourn.crypto.xaes import Xaes256Gcm
from sojourn.errors import ConfigurationError

NONCE = bytes(range(24))
DATA = b"the whole record"
PLACE = (b"cookie", b"shop.example")
NOW = 1_800_000_000.0

RING = KeyRing([key(1)])
SEALER = Sealer(RING, "cookie-seal", "shop", "north")
SEALED = SEALER.seal(DATA, PLACE, NONCE, NOW)


@pytest.fixture
def decryptions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The nonces of all decryptions that were tried."""
    tried: list[bytes] = []
    decrypt = Xaes256Gcm.decrypt

    def spy(cipher: Xaes256Gcm, nonce: bytes, data: bytes, context: bytes) -> bytes | None:
        tried.append(nonce)
        return decrypt(cipher, nonce, data, context)

    monkeypatch.setattr(Xaes256Gcm, "decrypt", spy)
    return tried


# -- the format ------------------------------------------------------------------------------------------------


def test_the_format_cannot_change_unnoticed() -> None:
    """What was sealed once is to open for ever. Other bytes here are another format: give it a new first byte."""
    assert SEALED.hex(" ", -4) == GOLDEN
    assert SEALED[:1] == b"\1"
    assert SEALED[1:5] == key(1).id
    assert SEALED[5:29] == NONCE
    assert len(SEALED) == len(DATA) + OVERHEAD == len(DATA) + 45


GOLDEN = (
    "01ec60ec 38000102 03040506 0708090a 0b0c0d0e 0f101112 13141516 17a89fb2 e201eb16 bc850ca3 50407eda 4ac878fc "
    "fd105737 2fa0ce27 0206044f 51"
)


def test_what_is_authenticated_is_as_the_format_says() -> None:
    """Opened by hand, from the derivation of the key to the last byte of what is bound to it."""
    derived = key(1).derive(b"sojourn/v1/cookie-seal/shop/north")
    parts = (b"cookie-seal", b"shop", b"north", *PLACE)
    bound = b"\1" + key(1).id + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert Xaes256Gcm(derived).decrypt(NONCE, SEALED[29:], bound) == DATA


@given(data=st.binary(), place=st.lists(st.binary(max_size=40), max_size=4), nonce=st.binary(min_size=24, max_size=24))
def test_what_was_sealed_opens_in_either_form(data: bytes, place: list[bytes], nonce: bytes) -> None:
    sealed = SEALER.seal(data, place, nonce, NOW)
    assert SEALER.open(sealed, place) == data
    assert from_text(to_text(sealed)) == sealed
    assert len(data) < 8 or data not in sealed[29:]


@given(one=st.lists(st.binary(max_size=3), max_size=4), other=st.lists(st.binary(max_size=3), max_size=4))
def test_no_two_places_are_taken_for_one(one: list[bytes], other: list[bytes]) -> None:
    """Also where the same bytes are cut into parts at another point."""
    assert (SEALER.open(SEALER.seal(DATA, one, NONCE, NOW), other) == DATA) == (one == other)


# -- what does not open ----------------------------------------------------------------------------------------


def test_no_bit_of_a_sealed_text_can_be_changed(caplog: pytest.LogCaptureFixture) -> None:
    """And nothing tells one failure from another: no exception, no log."""
    caplog.set_level(logging.DEBUG)
    for bit in range(len(SEALED) * 8):
        changed = bytearray(SEALED)
        changed[bit // 8] ^= 1 << bit % 8
        assert SEALER.open(bytes(changed), PLACE) is None
    assert caplog.records == []


def test_what_is_cut_off_or_longer_does_not_open() -> None:
    for size in range(len(SEALED)):
        assert SEALER.open(SEALED[:size], PLACE) is None
        assert SEALER.open(SEALED[size:], PLACE) is None or size == 0
    for more in (b"\0", b"=", SEALED):
        assert SEALER.open(SEALED + more, PLACE) is None


PLAIN = [b"", b"{}", json.dumps({"user": "alice"}).encode(), base64.b64encode(b'{"user": "alice"}' * 4), b"\x80" * 90]


@pytest.mark.parametrize("plain", PLAIN)
def test_what_was_never_sealed_is_not_decoded_some_other_way(plain: bytes, decryptions: list[bytes]) -> None:
    """CVE-2026-39324: a fallback decoder for what does not decrypt is a forged session without any key."""
    assert SEALER.open(plain, PLACE) is None
    assert SEALER.why(plain) is Refused.NOT_SEALED
    assert decryptions == []


@pytest.mark.parametrize("version", [0, 2, 0x81, 255])
def test_another_version_is_refused_without_a_decryption(version: int, decryptions: list[bytes]) -> None:
    assert SEALER.open(bytes([version]) + SEALED[1:], PLACE) is None
    assert decryptions == []


def test_an_unknown_key_costs_no_decryption_and_a_known_one_exactly_one(decryptions: list[bytes]) -> None:
    many = Sealer(KeyRing([key(n) for n in range(1, 9)]), "cookie-seal", "shop", "north")
    foreign = Sealer(KeyRing([key(9)]), "cookie-seal", "shop", "north").seal(DATA, PLACE, NONCE, NOW)
    assert many.open(foreign, PLACE) is None
    assert decryptions == []
    assert many.open(SEALED, PLACE) == DATA
    assert many.open(SEALED, ()) is None
    assert decryptions == [NONCE, NONCE]
    assert many.why(foreign) is Refused.UNKNOWN_KEY


def test_a_revoked_key_opens_nothing_and_costs_no_decryption(decryptions: list[bytes]) -> None:
    sealer = Sealer(KeyRing([key(2), key(1, revoked=True)]), "cookie-seal", "shop", "north")
    assert sealer.open(SEALED, PLACE) is None
    assert sealer.why(SEALED) is Refused.REVOKED_KEY
    assert decryptions == []


def test_a_key_id_put_in_place_of_another_does_not_help() -> None:
    sealer = Sealer(KeyRing([key(2), key(1)]), "cookie-seal", "shop", "north")
    assert sealer.open(SEALED[:1] + key(2).id + SEALED[5:], PLACE) is None


SCOPES = [("cookie-seal", "shop", "north"), ("store-blob", "shop", "north"), ("cookie-seal", "blog", "north")]
SCOPES += [("cookie-seal", "shop", "south"), ("cookie-seal", "shop", ""), ("cookie-seal", "shop/north", "")]
SCOPES += [("cookie-seal", "shop%2Fnorth", ""), ("cookie-seal", "", "shop/north"), ("cookie-seal/shop", "north", "")]


@pytest.mark.parametrize(("made", "opened"), list(itertools.permutations(SCOPES, 2)))
def test_what_one_purpose_application_or_tenant_sealed_opens_for_no_other(made: Any, opened: Any) -> None:
    sealed = Sealer(RING, *made).seal(DATA, PLACE, NONCE, NOW)
    assert Sealer(RING, *made).open(sealed, PLACE) == DATA
    assert Sealer(RING, *opened).open(sealed, PLACE) is None
    assert Sealer(RING, *opened).why(sealed) is Refused.NOT_AUTHENTIC


def test_scopes_have_keys_of_their_own() -> None:
    """Two locks: what is authenticated names the scope, and the key differs as well."""
    ciphers = [Sealer(RING, *scope)._suite(key(1)).cipher for scope in SCOPES]
    assert len({cipher.encrypt(NONCE, DATA, b"") for cipher in ciphers}) == len(SCOPES)


@pytest.mark.parametrize("place", [(), PLACE[:1], PLACE[::-1], (*PLACE, b""), (b"".join(PLACE),), (b"", *PLACE)])
def test_what_was_sealed_for_one_place_opens_in_no_other(place: tuple[bytes, ...]) -> None:
    assert SEALER.open(SEALED, place) is None


# -- the text form ---------------------------------------------------------------------------------------------

TEXT = to_text(SEALED + b"!")  # whose last character has bits that decoding would drop


def test_a_token_has_one_spelling() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = [letter for letter in alphabet if from_text(TEXT[:-1] + letter) == SEALED + b"!"]
    assert same == [TEXT[-1]]
    assert len(TEXT) % 4 != 0


MISSPELLED = {
    "padded": TEXT + "=" * (-len(TEXT) % 4),
    "with a space": TEXT[:8] + " " + TEXT[8:],
    "with a line's end": TEXT + "\n",
    "with a line's end inside": TEXT[:64] + "\r\n" + TEXT[64:],
    "in the other alphabet": base64.b64encode(b"\xfb\xff\xbe" * 20).decode(),
    "with a letter of no alphabet": TEXT[:5] + "*" + TEXT[6:],
    "with a padding inside": TEXT[:4] + "=" + TEXT[5:],
    "with a zero": TEXT[:4] + "\0" + TEXT[5:],
    "not in ASCII": TEXT[:-1] + "\uff21",
    "of an impossible length": TEXT[: len(TEXT) // 4 * 4 + 1],
    "percent-encoded": TEXT[:4] + "%3D" + TEXT[4:],
}


@pytest.mark.parametrize("text", MISSPELLED.values(), ids=MISSPELLED)
def test_another_spelling_is_refused(text: str) -> None:
    assert from_text(text) is None


@given(st.text(max_size=60))
def test_no_text_is_an_error(text: str) -> None:
    found = from_text(text)
    assert found is None or to_text(found) == text


@given(st.binary(max_size=100))
def test_no_bytes_are_an_error(data: bytes) -> None:
    assert SEALER.open(data, PLACE) is None
    assert isinstance(SEALER.why(data), Refused)


def test_a_token_in_the_other_alphabet_is_no_second_spelling() -> None:
    random = Random(5)
    text = next(text for _ in range(100) if {"-", "_"} <= set(text := to_text(random.randbytes(60))))
    assert from_text(text)
    assert from_text(text.replace("-", "+")) is None
    assert from_text(text.replace("_", "/")) is None


# -- keys change -----------------------------------------------------------------------------------------------


def test_an_open_only_key_opens_and_does_not_seal() -> None:
    ring = KeyRing([key(1, retire_at=NOW - 60), key(2, activate_at=NOW - 60)])
    sealer = Sealer(ring, "cookie-seal", "shop", "north")
    assert sealer.open(SEALED, PLACE) == DATA
    assert sealer.seal(DATA, PLACE, NONCE, NOW)[1:5] == key(2).id


def test_a_key_seals_from_its_activation_on() -> None:
    sealer = Sealer(KeyRing([key(1), key(2, activate_at=NOW)]), "cookie-seal")
    used = [sealer.seal(DATA, (), NONCE, now)[1:5] for now in (NOW - 0.001, NOW)]
    assert used == [key(1).id, key(2).id]


def test_without_an_active_key_nothing_is_sealed() -> None:
    with pytest.raises(ConfigurationError, match="no key is active"):
        Sealer(KeyRing([key(1, activate_at=NOW)]), "cookie-seal").seal(DATA, (), NONCE, NOW - 1)


LAG = 300.0


def logouts(random: Random, lag: float, requests: int = 1000) -> int:
    """Let three nodes with clocks that differ receive three new keys, one by one, each at its own time and while
    requests go on; old keys are taken out when the last token sealed with them is over. Return how many requests
    brought a token, not a minute old, that their node could not open.
    """
    skews = [random.uniform(-2, 2) for _ in range(3)]
    # Of key n: when each node has it, when it seals, and when the nodes forget it.
    arrives = [[0.0] * 3] + [[n * 1000 + random.uniform(0, 200) for _ in range(3)] for n in (1, 2, 3)]
    active = [-1000.0] + [n * 1000 + lag for n in (1, 2, 3)]
    leaves = [[start + 250 + random.uniform(0, 100) for _ in range(3)] for start in [*active[1:], 1e9]]
    token, sealed_at, lost = None, 0.0, 0
    for at in sorted(random.uniform(0, 4500) for _ in range(requests)):
        node = random.randrange(3)
        has = [n for n in range(4) if arrives[n][node] <= at < leaves[n][node]]
        sealer = Sealer(KeyRing(key(n, activate_at=active[n]) for n in has), "cookie-seal")
        if token is not None and at - sealed_at < 60:
            lost += sealer.open(token, ()) != DATA
        token, sealed_at = sealer.seal(DATA, (), random.randbytes(24), at + skews[node]), at
    return lost


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_rolling_rotation_logs_nobody_out(seed: int) -> None:
    """Ten thousand requests in ten runs: a third of the nodes has a key, two thirds, all; and clocks that differ."""
    assert logouts(Random(seed), LAG) == 0


def test_without_the_lag_it_would() -> None:
    """So the test above can fail: where a key seals before all nodes have it, visitors are logged out."""
    assert sum(logouts(Random(seed), 0.0) for seed in range(3)) > 10


def test_half_of_the_nodes_with_the_new_key_and_half_without() -> None:
    """The one moment of every deployment, spelled out."""
    before, after = KeyRing([key(1)]), KeyRing([key(1), key(2, activate_at=NOW + LAG)])
    nodes = [Sealer(ring, "cookie-seal") for ring in (before, after)]
    for maker, opener in itertools.product(nodes, nodes):
        assert opener.open(maker.seal(DATA, (), NONCE, NOW), ()) == DATA
