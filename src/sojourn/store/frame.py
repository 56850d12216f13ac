"""The bytes of a record at rest: a fixed header that stores may read and patch, and a body they never open.

    offset  0   format version, 1 byte
            1   flags, 1 byte: bit 0 = retired
            2   record version, 8 bytes
           10   accessed_at, milliseconds, 8 bytes
           18   expires_at, milliseconds, 8 bytes
           26   check, 16 bytes
           42   body: MessagePack of (created_at in milliseconds, principal, cookie age, successor, values)

Numbers are big-endian. The check binds flags, version and body to the key under which they stand, so a frame that
was damaged, moved to another key or answered to another request does not open (CVE-2023-28858). The two times lie
outside of it: ``touch`` patches them in place. ``created_at`` lies inside, so the absolute lifetime cannot be edited.
Milliseconds exist in this file only. The header keeps its layout in every format to come, so that workers of an older
version can bury in time what they cannot open.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import struct

import msgspec

from sojourn.core.ids import handle_of
from sojourn.core.record import Record

FORMAT = 1
RETIRED = 0x01

_HEADER = struct.Struct(">BBQQQ16s")
_HEAD = struct.Struct(">BBQ")  # what comes before the times
_TIMES = struct.Struct(">QQ")
_TIMES_AT = _HEAD.size
_EXPIRES_AT = _TIMES_AT + 8
_CHECK_AT = _TIMES_AT + _TIMES.size
HEADER = _HEADER.size  # bytes
_BODY_AT = HEADER

_log = logging.getLogger("sojourn.store")


class Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What stores never open, as it lies in a frame."""

    created_ms: int
    principal: str | None
    cookie_age: int | None
    successor: bytes | None
    values: dict[str, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Body).decode


def pack(key: bytes, record: Record) -> bytes:
    """Return *record* as the bytes to keep under *key*."""
    values = record.values if type(record.values) is dict else dict(record.values)
    body = Body(to_ms(record.created_at), record.principal, record.cookie_age, record.successor, values)
    times = to_ms(record.accessed_at), to_ms(record.expires_at)
    return join(key, record.version, *times, body, RETIRED if record.retired else 0)


def join(key: bytes, version: int, accessed_ms: int, expires_ms: int, body: Body, flags: int = 0) -> bytes:
    """Return the bytes to keep under *key* of a record in parts."""
    head, packed = _HEAD.pack(FORMAT, flags, version), _encode(body)
    return head + _TIMES.pack(accessed_ms, expires_ms) + _check(key, head, packed) + packed


def unpack(key: bytes, data: bytes, seen: bytes = b"") -> Record | None:
    """Return the record that *data* holds, or None where it does not belong to *key* or is damaged.

    None makes the visitor anonymous. The log says so as an error, and the bytes stay where they are. *seen* is not in
    the frame: what a browser sees with the record, where a store knows it.
    """
    body = open_body(key, data)
    if body is None:
        return None
    version, accessed, expires = numbers(data)
    return Record(
        body.values,
        body.created_ms / 1000,
        accessed / 1000,
        expires / 1000,
        version,
        body.principal,
        body.cookie_age,
        bool(data[1] & RETIRED),
        body.successor,
        seen,
    )


def open_body(key: bytes, data: bytes) -> Body | None:
    """Return what *data* holds beside the numbers in its header; None as in ``unpack``."""
    try:
        return _decode(data[_BODY_AT:]) if is_sound(key, data) else None
    except (ValueError, msgspec.MsgspecError) as error:
        _complain(key, error)
        return None


def is_sound(key: bytes, data: bytes) -> bool:
    """Tell whether *data* belongs to *key* and is as it was written; the log says where it is not."""
    if not data or data[0] != FORMAT:
        _complain(key, "another format")
    elif not hmac.compare_digest(data[_CHECK_AT:_BODY_AT], _check(key, data[:_TIMES_AT], data[_BODY_AT:])):
        _complain(key, "damaged, or written under another key")
    else:
        return True
    return False


def _complain(key: bytes, why: object) -> None:
    _log.error("session=%s has an unreadable record, which is left in place: %s", handle_of(key), why)


def peek(data: bytes) -> Body | None:
    """Return what *data* holds, which nobody has checked: for a write that compares it with what replaces it."""
    try:
        return _decode(memoryview(data)[_BODY_AT:])
    except (ValueError, msgspec.MsgspecError):
        return None


def version(data: bytes) -> int:
    """Return the record's version out of the header; 0, which no record has, where there is no header."""
    return int.from_bytes(data[2:_TIMES_AT], "big") if len(data) >= _BODY_AT and data[0] == FORMAT else 0


def is_alive(data: bytes, base: int | None) -> bool:
    """Tell, out of the header, whether the record is no tombstone, and has version *base* where that is not None."""
    if len(data) < _BODY_AT:
        return False
    format, flags, version = _HEAD.unpack_from(data)
    return format == FORMAT and not flags & RETIRED and base in (None, version)


def numbers(data: bytes) -> tuple[int, int, int]:
    """Return out of the header the version, and when the record was accessed and expires in milliseconds."""
    _, _, version, accessed, expires, _ = _HEADER.unpack_from(data)
    return version, accessed, expires


def expires_ms(data: bytes) -> int:
    """Return the deadline in milliseconds out of the header; 0, long past, where there is no header."""
    return int.from_bytes(data[_EXPIRES_AT:_CHECK_AT], "big") if len(data) >= _BODY_AT else 0


def patch_times(data: bytes, accessed_at: float, expires_at: float) -> bytes:
    """Return *data* with its two times replaced, and nothing else."""
    return data[:_TIMES_AT] + pack_times(accessed_at, expires_at) + data[_CHECK_AT:]


def pack_times(accessed_at: float, expires_at: float) -> bytes:
    """Return the two times as they stand in a header, from offset 10 on."""
    return _TIMES.pack(to_ms(accessed_at), to_ms(expires_at))


def to_ms(seconds: float) -> int:
    """Return *seconds* as whole milliseconds, never below zero."""
    milliseconds = round(seconds * 1000)
    return milliseconds if milliseconds > 0 else 0


def _check(key: bytes, head: bytes, body: bytes) -> bytes:
    bound = _UNBOUND.copy()  # a third faster than a new one with its arguments
    bound.update(key + head)
    bound.update(body)
    return bound.digest()


_UNBOUND = hashlib.blake2b(digest_size=16, person=b"sojourn frame")
