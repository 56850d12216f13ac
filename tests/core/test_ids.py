"""SessionId: unpredictable, one spelling each, and neither half shown."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.ids import SessionId


@given(st.binary(min_size=32, max_size=32), st.text(max_size=5))
def test_an_id_survives_the_way_through_the_browser(random: bytes, namespace: str) -> None:
    id = SessionId.from_random(random, namespace)
    back = SessionId.parse(id.public, namespace)
    assert back is not None
    assert (back.public, back.private) == (id.public, id.private)
    assert (len(id.public), len(id.private)) == (43, 32)


@given(st.binary(min_size=32, max_size=32))
def test_an_id_has_one_spelling(random: bytes) -> None:
    """Item 58: the unused bits of the last character are zero, or the text is no id."""
    public = SessionId.from_random(random).public
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    accepted = [last for last in alphabet if SessionId.parse(public[:-1] + last)]
    assert len(accepted) == 16
    assert public[-1] in accepted


@pytest.mark.parametrize(
    "text", ["", "A" * 42, "A" * 44, "A" * 42 + "B", "A" * 42 + "\n", "\uff21" * 43, "A" * 42 + "=", "+" * 43]
)
def test_what_is_not_an_id_is_none(text: str) -> None:
    """Item 23."""
    assert SessionId.parse(text) is None


def test_the_stored_half_presented_as_an_id_opens_nothing() -> None:
    """Item 26."""
    id = SessionId.from_random(b"\x07" * 32)
    for text in (id.private.hex(), SessionId.from_random(id.private).public):
        again = SessionId.parse(text)
        assert again is None or again.private != id.private


def test_namespaces_are_unrelated() -> None:
    """Item 27."""
    random = bytes(range(32))
    assert SessionId.from_random(random, "shop").private != SessionId.from_random(random, "forum").private


def test_no_half_is_shown() -> None:
    id = SessionId.from_random(bytes(range(32)))
    for text in (repr(id), str(id), id.handle, f"{id}", repr([id])):
        assert id.public[:8] not in text
        assert id.private.hex()[:10] not in text


def test_an_id_of_the_wrong_size_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        SessionId.from_random(b"short")


def test_forked_workers_draw_different_ids() -> None:
    """Item 22: the source is the kernel's, so a fork after use repeats nothing."""
    script = (
        "import os; from sojourn.core.ids import SessionId as I\n"
        "draw = lambda: I.from_random(os.urandom(32)).public\n"
        "draw()\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        os.write(1, ''.join(draw() + chr(10) for _ in range(1000)).encode()); os._exit(0)\n"
        "for _ in range(4): os.wait()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    ids = run.stdout.split()
    assert len(ids) == len(set(ids)) == 4000


def test_a_million_bits_of_ids_are_as_many_ones_as_zeros() -> None:
    """Item 21, the monobit test: four thousand ids of the default source, six standard deviations."""
    ones = sum(int.from_bytes(os.urandom(32), "big").bit_count() for _ in range(4000))
    assert abs(ones - 512_000) < 6 * (1_024_000**0.5) / 2
