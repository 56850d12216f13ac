"""The bytes of a record at rest: the layout cannot change unnoticed, and no bytes are an error."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.record import Record
from sojourn.store import frame
from sojourn.testing.store_contract import a_key, a_record

KEY = bytes(range(32))

FULL = Record(
    values={"cart": b"\x01two", "ключ": b""},
    created_at=1_700_000_000.125,
    accessed_at=1_700_000_060.5,
    expires_at=1_700_001_860.501,
    version=258,
    principal="alice",
    cookie_age=86400,
)
TOMBSTONE = Record(
    values={}, created_at=0.001, accessed_at=0.002, expires_at=10.0, version=2, retired=True, successor=bytes(32)
)

# What is written here is read for ever. A change of these bytes is a new format: give it a new first byte.
GOLDEN = [
    (
        FULL,
        "01 00 0000000000000102 0000018bcfe65454 0000018bd001cb95 dc8c8ba42ee5420cb4aca02cb6209575"
        "95 cf0000018bcfe5687d a5616c696365 ce00015180 c0 82 a463617274 c4040174776f a8d0bad0bbd18ed187 c400",
    ),
    (
        TOMBSTONE,
        "01 01 0000000000000002 0000000000000002 0000000000002710 71fd007a983ba980d2e8420ce7506601"
        "95 01 c0 c0 c420" + "00" * 32 + "80",
    ),
]


@contextmanager
def silent() -> Iterator[None]:
    """Keep thousands of unreadable records out of the log."""
    log = logging.getLogger("sojourn.store")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False


def framed(
    body: bytes, *, key: bytes = KEY, format: int = 1, flags: int = 0, version: int = 1, check: bytes | None = None
) -> bytes:
    """Return a frame put together by hand, whose check is right unless it is given."""
    head = struct.pack(">BBQ", format, flags, version)
    if check is None:
        check = hashlib.blake2b(key + head + body, digest_size=16, person=b"sojourn frame").digest()
    return head + struct.pack(">QQ", 1000, 2000) + check + body


# -- the layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("record", "golden"), GOLDEN, ids=["session", "tombstone"])
def test_the_layout_has_not_changed(record: Record, golden: str) -> None:
    assert frame.pack(KEY, record) == bytes.fromhex(golden)
    assert frame.unpack(KEY, bytes.fromhex(golden)) == record


def test_each_field_of_the_header_stands_where_the_table_says() -> None:
    data = frame.pack(KEY, FULL)
    assert data[0] == 1
    assert data[1] == 0
    assert int.from_bytes(data[2:10], "big") == frame.version(data) == 258
    assert int.from_bytes(data[10:18], "big") == 1_700_000_060_500
    assert int.from_bytes(data[18:26], "big") == frame.expires_ms(data) == 1_700_001_860_501
    by_hand = hashlib.blake2b(KEY + data[:10] + data[42:], digest_size=16, person=b"sojourn frame")
    assert data[26:42] == by_hand.digest()
    assert frame.pack(KEY, TOMBSTONE)[1] == 1


records = st.builds(
    Record,
    values=st.dictionaries(st.text(max_size=20), st.binary(max_size=100), max_size=8),
    created_at=st.integers(0, 2**43).map(lambda ms: ms / 1000),
    accessed_at=st.integers(0, 2**43).map(lambda ms: ms / 1000),
    expires_at=st.integers(0, 2**43).map(lambda ms: ms / 1000),
    version=st.integers(1, 2**64 - 1),
    principal=st.none() | st.text(max_size=20),
    cookie_age=st.none() | st.integers(-(2**31), 2**40),
    retired=st.booleans(),
    successor=st.none() | st.binary(min_size=32, max_size=32),
    seen=st.just(b""),
)


@given(records, st.binary(min_size=32, max_size=32))
def test_every_record_comes_back_as_it_was(record: Record, key: bytes) -> None:
    data = frame.pack(key, record)
    assert frame.unpack(key, data) == record
    assert frame.version(data) == record.version


def test_any_mapping_of_values_is_taken() -> None:
    record = a_record(values=MappingProxyType({"a": b"1"}))
    assert frame.unpack(KEY, frame.pack(KEY, record)) == a_record(values={"a": b"1"})


# -- the two times ---------------------------------------------------------------------------------------------


def test_a_touch_changes_sixteen_bytes_and_no_other() -> None:
    before = frame.pack(KEY, FULL)
    after = frame.patch_times(before, 1_700_000_900.25, 1_700_002_700.75)
    assert [place for place in range(len(before)) if before[place] != after[place]] != []
    assert after[:10] + after[26:] == before[:10] + before[26:]
    assert after == frame.pack(KEY, FULL._replace(accessed_at=1_700_000_900.25, expires_at=1_700_002_700.75))


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (0.0, 0),
        (-0.0, 0),
        (-1.0, 0),
        (-1e300, 0),
        (0.0004, 0),
        (0.0006, 1),
        (1.0005, 1000),
        (1.9999, 2000),
        (timedelta(days=14).total_seconds(), 14 * 24 * 3600 * 1000),
        (timedelta(days=30, milliseconds=1).total_seconds(), 2_592_000_001),
        (1_700_000_000 + timedelta(days=14).total_seconds(), 1_701_209_600_000),
        (253_402_300_799.999, 253_402_300_799_999),  # the end of the year 9999
    ],
)
def test_seconds_are_rounded_to_milliseconds(seconds: float, milliseconds: int) -> None:
    """Rule 8 of the style: one conversion, and never the ``.seconds`` of a timedelta."""
    assert frame.to_ms(seconds) == milliseconds


@given(st.integers(0, 2**52))
def test_a_time_kept_is_a_time_read(milliseconds: int) -> None:
    assert frame.to_ms(milliseconds / 1000) == milliseconds


@pytest.mark.parametrize("absurd", [float("nan"), float("inf"), 1e30])
def test_a_time_that_is_none_is_refused_and_never_immortal(absurd: float) -> None:
    """Checklist 42."""
    with pytest.raises((ValueError, OverflowError, struct.error)):
        frame.pack(KEY, a_record(expires_at=absurd))
    with pytest.raises((ValueError, OverflowError, struct.error)):
        frame.patch_times(frame.pack(KEY, a_record()), 0.0, absurd)


def test_a_time_before_1970_is_long_past() -> None:
    data = frame.pack(KEY, a_record(created_at=-1.0, accessed_at=-1e9, expires_at=-0.001))
    assert frame.expires_ms(data) == 0
    found = frame.unpack(KEY, data)
    assert found
    assert (found.created_at, found.accessed_at, found.expires_at) == (0.0, 0.0, 0.0)


# -- versions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2**32, 2**63, 2**64 - 1])
def test_huge_versions_are_kept(version: int) -> None:
    data = frame.pack(KEY, a_record(version=version))
    assert frame.version(data) == version
    found = frame.unpack(KEY, data)
    assert found
    assert found.version == version


@pytest.mark.parametrize("version", [-1, 2**64])
def test_a_version_that_does_not_fit_is_refused(version: int) -> None:
    with pytest.raises(struct.error):
        frame.pack(KEY, a_record(version=version))


def test_what_has_no_header_has_no_version_and_is_long_past() -> None:
    data = frame.pack(KEY, FULL)
    for cut in range(42):
        assert frame.version(data[:cut]) == 0
        assert frame.expires_ms(data[:cut]) == 0
    assert frame.version(data[:42]) == 258
    assert frame.expires_ms(data[:42]) == 1_700_001_860_501


def test_an_older_worker_buries_a_newer_format_in_time_and_changes_it_never() -> None:
    """Its header says when it dies. A version of 0 is one that nobody names, so no update or touch fits."""
    newer = b"\x02" + frame.pack(KEY, FULL)[1:]
    assert frame.expires_ms(newer) == 1_700_001_860_501
    assert frame.version(newer) == 0


# -- what does not open ----------------------------------------------------------------------------------------


def test_a_frame_opens_under_its_own_key_only(caplog: pytest.LogCaptureFixture) -> None:
    """Checklist 82. CVE-2023-28858 gave one visitor another's answer."""
    data = frame.pack(a_key(1), FULL)
    for other in (a_key(2), b"", KEY[:31], KEY + b"x" * 100):
        assert frame.unpack(other, data) is None
    assert "damaged, or written under another key" in caplog.text
    assert a_key(1).hex() not in caplog.text
    assert a_key(2).hex() not in caplog.text, "the log names records, and opens none"


def test_each_bit_but_those_of_the_times_is_checked() -> None:
    data = frame.pack(KEY, FULL)
    with silent():
        for place in range(len(data)):
            for bit in range(8):
                damaged = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
                opened = frame.unpack(KEY, damaged)
                assert (opened is None) != (10 <= place < 26), place


def test_an_unknown_format_is_nobody_and_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    body = frame.pack(KEY, FULL)[42:]
    assert frame.unpack(KEY, framed(body)) is not None
    for format in (0, 2, 255):
        assert frame.unpack(KEY, framed(body, format=format)) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert "another format" in caplog.text
    assert "left in place" in caplog.text


@given(st.binary(max_size=200))
def test_no_bytes_are_an_error(data: bytes) -> None:
    """Checklist 114. Damage makes the visitor anonymous; it never makes a worker fail."""
    with silent():
        assert frame.unpack(KEY, data) is None
    frame.version(data)
    frame.expires_ms(data)


messagepack = st.recursive(
    st.sampled_from([b"\xc0", b"\xc2", b"\x01", b"\xff", b"\xa1a", b"\xa1\xff", b"\xc4\x01x", b"\xcf" + b"\xff" * 8])
    | st.binary(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=6).map(lambda items: bytes([0x90 + len(items)]) + b"".join(items))
        | st.lists(st.tuples(inner, inner), max_size=4).map(
            lambda items: bytes([0x80 + len(items)]) + b"".join(a + b for a, b in items)
        )
    ),
    max_leaves=10,
)


@given(st.binary(max_size=100) | messagepack, st.integers(0, 255))
def test_no_body_is_an_error_even_with_a_right_check(body: bytes, flags: int) -> None:
    """The check binds, it does not vouch: whoever can write to the store can compute it."""
    with silent():
        opened = frame.unpack(KEY, framed(body, flags=flags))
    if opened is not None:
        assert type(opened.values) is dict


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x95",
        b"\x95\x01\xc0\xc0\xc0\x80\x00",  # something follows
        b"\x96\x01\xc0\xc0\xc0\x80\xc0",  # a field too many
        b"\x94\x01\xc0\xc0\xc0",  # one too few
        b"\x95\xc0\xc0\xc0\xc0\x80",  # no created_at
        b"\x95\x01\xc0\xc0\xc0\x81\x01\xc4\x00",  # a key that is no text
        b"\x95\x01\xc0\xc0\xc0\x81\xa1\xff\xc4\x00",  # nor UTF-8
        b"\x95\x01\xc0\xc0\xc0\x81\xa1a\xa1b",  # a value that is no bytes
        b"\x95\x01\xc0\xc0\xc0\xdf\xff\xff\xff\xff",  # a map that claims four billion entries
        b"\x95\x01\xc0\xc0\xc6\xff\xff\xff\xff\x80",  # bytes that claim four gigabytes
        b"\x91" * 100_000,  # nested without end
        b"\x80\x04\x95",  # as a pickle begins
    ],
)
def test_a_body_of_another_shape_is_nobody(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Checklist 89."""
    assert frame.unpack(KEY, framed(body)) is None
    assert len(caplog.records) == 1


def test_unknown_flags_are_bound_and_ignored() -> None:
    data = framed(b"\x95\x01\xc0\xc0\xc0\x80", flags=0xFE)
    found: Any = frame.unpack(KEY, data)
    assert found.retired is False
    with silent():
        assert frame.unpack(KEY, data[:1] + b"\x00" + data[2:]) is None
