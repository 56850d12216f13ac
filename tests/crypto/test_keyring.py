"""Which key seals and which open, where rings come from, and what is refused before anything is sealed."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crypto.keys import key, secret, text

from sojourn.crypto.key import Key, State, format_time, generate_key, parse_key, parse_time
from sojourn.crypto.keyring import KeyRing, key_ring
from sojourn.errors import ConfigurationError

MAY, JUNE, JULY = (parse_time(f"2026-{month}-01T00:00:00Z") for month in ("05", "06", "07"))


def refusal(source: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        key_ring(source)
    return str(refused.value)


# -- states ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_newest_active_key_seals_in_whatever_order_they_are_listed(order: tuple[int, ...]) -> None:
    keys = [key(1, activate_at=MAY), key(2, activate_at=JUNE), key(3, activate_at=JULY)]
    ring = KeyRing(keys[n] for n in order)
    assert [ring.writing_key(now) for now in (MAY, JUNE - 1, JUNE, JULY, JULY + 1e9)] == [
        keys[0],
        keys[0],
        keys[1],
        keys[2],
        keys[2],
    ]


def test_without_times_the_first_of_a_list_seals() -> None:
    assert KeyRing.of([text(2), text(1)]).writing_key(MAY).id == key(2).id


def test_every_key_that_is_not_revoked_opens() -> None:
    """One that is not active yet, too: a node whose clock is ahead seals with it already."""
    old, new, next_, gone = (
        key(1, retire_at=MAY),
        key(2, activate_at=MAY),
        key(3, activate_at=JUNE),
        key(4, revoked=True),
    )
    ring = KeyRing([old, new, next_, gone])
    assert [ring.reading_key(one.id) for one in (old, new, next_, gone, key(5))] == [old, new, next_, None, None]


def test_states_as_a_list_shows_them() -> None:
    ring = KeyRing([key(1), key(2, activate_at=MAY), key(3, activate_at=JULY), key(4, revoked=True)])
    shown = {info.name: info.state for info in ring.describe(JUNE)}
    assert shown == {
        key(3).name: State.DISTRIBUTED,
        key(2).name: State.ACTIVE,
        key(1).name: State.OPEN_ONLY,
        key(4).name: State.REVOKED,
    }


@given(
    keys=st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(1, 20), st.booleans()), min_size=1, max_size=4)
)
def test_a_ring_that_was_accepted_has_a_key_to_seal_with_from_its_first_activation_on(keys: Any) -> None:
    """Whatever the times: a key that retires at night, without a successor, is refused when the application starts."""
    try:
        ring = KeyRing(key(n, activate_at=a, retire_at=r, revoked=gone) for n, (a, r, gone) in enumerate(keys))
    except ConfigurationError:
        return
    first = min(start for start, _, gone in keys if not gone)
    for now in range(first, 25):
        assert ring.reading_key(ring.writing_key(now).id)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [key(1, revoked=True)],
        [key(1, retire_at=MAY)],
        [key(1, retire_at=MAY), key(2, activate_at=MAY + 1)],
        [key(1, retire_at=MAY), key(2, revoked=True)],
        [key(1, retire_at=MAY), key(2, retire_at=MAY)],
    ],
)
def test_a_ring_that_would_run_out_of_keys_is_refused(keys: list[Key]) -> None:
    with pytest.raises(ConfigurationError, match="key"):
        KeyRing(keys)


def test_a_ring_without_a_key_that_is_active_by_now_says_when_one_will_be() -> None:
    with pytest.raises(ConfigurationError, match="2026-06-01T00:00:00Z") as refused:
        KeyRing([key(1, activate_at=JUNE)]).writing_key(MAY)
    assert "clock" in str(refused.value)


# -- identity --------------------------------------------------------------------------------------------------


def test_an_id_follows_from_the_secret_alone() -> None:
    assert key(1).id == key(1, activate_at=MAY, revoked=True).id
    assert key(1).id == hashlib.sha256(b"sojourn/v1/key-id\0" + secret(1)).digest()[:4]
    assert len({key(n).id for n in range(100)}) == 100


def test_a_fingerprint_is_equal_on_nodes_with_equal_rings_and_on_no_others() -> None:
    rings = [
        KeyRing([key(1), key(2, activate_at=MAY)]),
        KeyRing([key(1)]),
        KeyRing([key(1), key(3, activate_at=MAY)]),
        KeyRing([key(1), key(2, activate_at=JUNE)]),
        KeyRing([key(1), key(2, activate_at=MAY, revoked=True)]),
    ]
    assert len({ring.fingerprint for ring in rings}) == len(rings)
    assert rings[0].fingerprint == KeyRing([key(2, activate_at=MAY), key(1)]).fingerprint


def test_purpose_keys_differ_from_one_another_and_from_the_secret() -> None:
    derived = {key(1).derive(info) for info in (b"sojourn/v1/a//", b"sojourn/v1/b//", b"sojourn/v1/a/shop/")}
    assert len(derived) == 3
    assert secret(1) not in derived


def test_nothing_shows_a_secret() -> None:
    one, ring = key(1), KeyRing([key(1), key(2)])
    shown = "".join(map(str, (one, [one], ring, ring.describe(MAY), ring.fingerprint, one.name)))
    shown += repr(one) + repr(ring) + str(getattr(one, "__dict__", ""))
    for spelled in (secret(1).hex(), text(1).partition(":")[2], repr(secret(1))[2:-1], str(list(secret(1)))):
        assert spelled[:12] not in shown


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keys_are_not_pickled(copying: Any) -> None:
    with pytest.raises(TypeError, match="not pickled"):
        copying(KeyRing([key(1)]) if copying is not copy.copy else key(1))


# -- texts -----------------------------------------------------------------------------------------------------


def test_a_generated_key_is_read_back() -> None:
    assert generate_key(secret(7)).startswith("sojourn-key-1:")
    assert parse_key(generate_key(secret(7))).id == key(7).id


@pytest.mark.parametrize(
    "spelled",
    [
        secret(1),
        secret(1).hex(),
        secret(1).hex().upper(),
        base64.b64encode(secret(1)).decode(),
        base64.urlsafe_b64encode(secret(1)).decode(),
        base64.urlsafe_b64encode(secret(1)).rstrip(b"="),
        f"  {text(1)}\t# made in May\n",
    ],
)
def test_a_key_may_be_spelled_as_usual_tools_spell_32_bytes(spelled: str | bytes) -> None:
    assert parse_key(spelled).id == key(1).id


def test_a_line_says_when_its_key_is_active() -> None:
    line = f"{text(1)} active=2026-05-01T02:00:00+02:00 retired=2026-06-01T00:00:00Z revoked # stolen"
    read = parse_key(line)
    assert (read.activate_at, read.retire_at, read.revoked) == (MAY, JUNE, True)
    assert parse_time(format_time(MAY)) == MAY


@pytest.mark.parametrize(
    "settings",
    [
        "active",
        "active=",
        "active=tomorrow",
        "active=2026-05-01",
        "active=2026-05-01T00:00:00",
        "revoked=no",
        "revoked revoked",
        "expires=2026-05-01T00:00:00Z",
        "active=2026-06-01T00:00:00Z retired=2026-05-01T00:00:00Z",
    ],
)
def test_a_setting_of_a_key_that_says_nothing_is_refused(settings: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_key(f"{text(1)} {settings}")


ENGLISH = "correct horse battery staple"

WEAK = {
    "empty": "",
    "short": base64.b64encode(secret(1)[:24]).decode(),
    "long": base64.b64encode(secret(1) * 2).decode(),
    "short hexadecimal": secret(1)[:31].hex(),
    "zeros": bytes(32),
    "zeros in base64": base64.b64encode(bytes(32)).decode(),
    "ones in hexadecimal": "ff" * 32,
    "ascending": bytes(range(32)),
    "descending": bytes(range(255, 223, -1)),
    "in steps": bytes(7 * n % 256 for n in range(32)),
    "digits": "0123456789abcdef" * 4,
    "repeated": secret(1)[:16] * 2,
    "repeated words": "deadbeef" * 8,
    "padded": secret(1)[:8] + bytes(24),
    "a passphrase": ENGLISH,
    "a passphrase of the right length": "thecorrecthorsebatterystapleandhisfriends12",
    "a passphrase in capitals": "CorrectHorseBatteryStapleWithGoodNeighbours",
    "text as bytes": b"Jackdaws love my big sphinx of q",
    "text in base64": base64.b64encode(b"the correct horse battery staple").decode(),
    "text in hexadecimal": b"the correct horse battery staple".hex(),
    "a word of examples": "ChangeMe" + text(1)[-35:],
    "another": text(1)[14:20] + "-my_Secret-" + text(1)[-26:],
    "published by NIST": "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
    "published with Fernet": "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    "cut off": text(1)[:-1],
    "with bits that decoding drops": text(1)[:-1] + chr(ord(text(1)[-1]) + 1),
}


@pytest.mark.parametrize("weak", WEAK.values(), ids=WEAK)
def test_what_could_be_guessed_is_no_key(weak: str | bytes) -> None:
    """And the error names the cure, and never quotes what was given."""
    said = refusal([weak])
    assert "secrets.token_urlsafe(32)" in said
    shown = weak if isinstance(weak, str) else weak.hex()
    assert not shown or shown[:12] not in said


def test_random_keys_are_not_refused() -> None:
    draw = random.Random(3).randbytes
    for _ in range(20_000):
        drawn = draw(32)
        parse_key(base64.urlsafe_b64encode(drawn).decode())


# -- sources ---------------------------------------------------------------------------------------------------


def private(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


FILE = f"""# the keys of the shop

{text(2)}  active=2026-05-01T00:00:00Z
{text(1)}  # until the sessions of April are over
"""


def test_a_ring_comes_from_a_file_a_variable_a_list_or_a_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private(tmp_path / "keys", FILE)
    monkeypatch.setenv("SHOP_KEYS", f"{text(2)} active=2026-05-01T00:00:00Z, {text(1)}")
    ring = KeyRing([key(2, activate_at=MAY), key(1)])
    lines = [line for line in FILE.splitlines() if line.startswith("sojourn")]
    sources: list[Any] = [f"file:{path}", path, "env:SHOP_KEYS", lines, iter(lines), ring, lambda: f"file:{path}"]
    sources += [lambda: lines, [parse_key(line) for line in lines], [line.encode() for line in lines]]
    assert {key_ring(source).fingerprint for source in sources} == {ring.fingerprint}


@pytest.mark.parametrize("source", [text(1), text(1).encode(), secret(1), "", "file:", "env:", "redis://h", None, 7])
def test_another_source_is_refused_without_quoting_it(source: Any) -> None:
    said = refusal(source)
    assert "keys=[key]" in said
    assert text(1)[20:] not in said


@pytest.mark.parametrize("entry", [None, 7, [text(1)], bytearray(secret(1))])
def test_a_list_of_something_else_is_refused(entry: Any) -> None:
    assert "key 2" in refusal([text(1), entry])


def test_an_error_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private(tmp_path / "keys", f"{text(1)}\n\n{text(2)} soon\n")
    assert f"{path}, line 3" in refusal(path)
    monkeypatch.setenv("SHOP_KEYS", "changeme")
    assert "SHOP_KEYS, line 1" in refusal("env:SHOP_KEYS")


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "keys", f"{text(1)}\n{secret(1).hex()} active=2026-05-01T00:00:00Z\n")
    assert "twice" in refusal(path)


def test_a_missing_file_or_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tmp_path / "keys") in refusal(tmp_path / "keys")
    monkeypatch.delenv("SHOP_KEYS", raising=False)
    assert "SHOP_KEYS" in refusal("env:SHOP_KEYS")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o777])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    assert "chmod 600" in refusal(private(tmp_path / "keys", FILE, mode))


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    for path in (tmp_path / "pipe", tmp_path / "directory", private(tmp_path / "bytes", b"\xff\xfe")):
        assert str(path) in refusal(path)


def test_a_link_leads_to_a_file_that_is_looked_at_itself(tmp_path: Path) -> None:
    """Containers mount secrets as links."""
    open_to_all = private(tmp_path / "open", FILE, 0o644)
    (tmp_path / "link").symlink_to(open_to_all)
    assert "chmod 600" in refusal(tmp_path / "link")
    open_to_all.chmod(0o600)
    assert key_ring(tmp_path / "link").reading_key(key(1).id)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for root's own, and for root."""
    path = private(tmp_path / "keys", FILE)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert "belongs to another user" in refusal(path)
    for user in (owner, 0):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert key_ring(path).reading_key(key(1).id)


def test_without_the_package_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography") or name == "sojourn.crypto.xaes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    said = refusal([text(1)])
    assert "pip install 'sojourn[encryption]'" in said
    assert "cryptography" in said
