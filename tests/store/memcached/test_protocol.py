"""The reader of memcached's replies: whole, in pieces, and when what comes is something else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.store.memcached.protocol import Item, Malformed, Replies, Reply

STREAM = (
    b"STORED\r\n"
    b"VALUE key 0 5\r\na\r\nbc\r\nEND\r\n"
    b"END\r\n"
    b"VALUE key 0 0 17\r\n\r\nEND\r\n"
    b"STAT pid 7\r\nSTAT inter \r\nSTAT version 1.6.18 (x)\r\nEND\r\n"
    b"SERVER_ERROR out of memory storing object\r\n"
    b"VALUE key 32 12 18446744073709551615\r\nEND\r\nVALUE \r\r\nEND\r\n"
)
REPLIES: list[Reply] = [
    b"STORED",
    Item(b"key", b"a\r\nbc"),
    b"END",
    Item(b"key", b"", b"17"),
    {"pid": "7", "inter": "", "version": "1.6.18 (x)"},
    b"SERVER_ERROR out of memory storing object",
    Item(b"key", b"END\r\nVALUE \r", b"18446744073709551615"),
]


def replies_in(*pieces: bytes) -> list[Reply]:
    reader, found = Replies(), []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.gets()) is not None:
            found.append(reply)
    assert not reader.has_data()
    return found


def test_replies_that_come_at_once_are_told_apart() -> None:
    assert replies_in(STREAM) == REPLIES


def test_replies_that_come_byte_by_byte_are_the_same() -> None:
    assert replies_in(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == REPLIES


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_replies_that_come_in_any_pieces_are_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert replies_in(*(STREAM[a:b] for a, b in pairwise(edges))) == REPLIES


def test_a_large_value_in_many_pieces_is_looked_at_once() -> None:
    """Looking at all of it for each piece would take seconds for a few megabytes."""
    data = bytes(8 << 20)
    stream = b"VALUE key 0 %d\r\n%b\r\nEND\r\n" % (len(data), data)
    assert replies_in(*(stream[at : at + 1024] for at in range(0, len(stream), 1024))) == [Item(b"key", data)]


@pytest.mark.parametrize(
    "stream",
    [
        b"VALUE key 0\r\n",
        b"VALUE key 0 x\r\n",
        b"VALUE key 0 -1\r\n",
        b"VALUE key 0 1 2 3\r\n",
        b"VALUE key 0 99999999999\r\n",
        b"VALUE key 0 3\r\nabcdef\r\nEND\r\n",
        b"VALUE key 0 3\r\nabc\r\nVALUE other 0 1\r\nx\r\nEND\r\n",
        b"x" * 4096,
    ],
)
def test_what_is_not_the_protocol_is_refused(stream: bytes) -> None:
    with pytest.raises(Malformed):
        replies_in(stream)


@given(st.binary(max_size=200))
def test_any_bytes_are_replies_or_refused_and_nothing_else(stream: bytes) -> None:
    reader = Replies()
    reader.feed(stream)
    try:
        while reader.gets() is not None:
            pass
    except Malformed:
        pass
