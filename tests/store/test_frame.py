"""The bytes of a record at rest: the layout cannot change unnoticed, and no bytes are an error."""

from __future__ import annotations

import hashlib
import logging
import struct
from dataclasses import dataclass
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
GOLDEN = {
    "full": (
        FULL,
        "0100000000000000010200000"
        "18bcfe5d3640000018bd00148c5",
    ),
}


@dataclass
class Parts:
    """A frame taken apart by hand, from the layout in the module's docstring."""

    format: int
    flags: int
    version: int
    accessed: int
    expires: int
    check: bytes
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> Parts:
        return cls(*struct.unpack(">BBQQQ16s", data[:42]), data[42:])
