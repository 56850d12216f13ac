"""Encryption at rest: a flow whose records are sealed on their way to the store and opened on their way back.

A sealed record has one value, under the empty name, and it holds the values, the principal, the cookie's lifetime and
the moment of creation. Bound to it are the key under which it is stored, its version, and whether it is retired and in
favour of which: moved elsewhere or dressed up as another it does not open. The two other times stay outside, since
``touch`` moves them without a key. Stores and their frames are the same with and without.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from sojourn.core.capability import LoadMany, LoadSeen
from sojourn.core.ids import handle_of
from sojourn.core.ops import Create, Flow, Load, Update
from sojourn.core.record import Record
from sojourn.crypto.keyring import KeyRing
from sojourn.crypto.seal import Sealer
from sojourn.crypto.xaes import NONCE_BYTES
from sojourn.errors import StoreUnavailable

T = TypeVar("T")

PURPOSE = "store-blob"
SEALED = ""  # the name of the one value of a sealed record

_log = logging.getLogger("sojourn.store")


class _Inside(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    created_ms: int
    principal: str | None
    cookie_age: int | None
    values: dict[str, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Inside).decode


class Vault:
    """What seals the records of one application and opens them.

    *namespace* is the application's, as in SessionManager; *clock* returns epoch seconds, and *random* as many random
    bytes as it is asked for. Raises ConfigurationError where no key of the *ring* is active.
    """

    def __init__(
        self, ring: KeyRing, namespace: str, clock: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        ring.writing_key(clock())
        self._sealer = Sealer(ring, PURPOSE, namespace)
        self._clock, self._random = clock, random

    def seal(self, key: bytes, record: Record) -> Record:
        """Return *record* as the store may see it under *key*. Raises ConfigurationError where no key is active."""
        values = record.values if type(record.values) is dict else dict(record.values)
        inside = _encode(_Inside(_to_ms(record.created_at), record.principal, record.cookie_age, values))
        sealed = self._sealer.seal(inside, _place(key, record), self._random(NONCE_BYTES), self._clock())
        return _with(record, {SEALED: sealed}, record.created_at, None, None)

    def open(self, key: bytes, record: Record | None) -> Record | None:
        """Return what :meth:`seal` was given, with the times that the store has by now.

        None where there is nothing, and where the record does not open: the visitor is anonymous, the log has an
        error, and the bytes stay where they are.
        """
        if record is None:
            return None
        sealed = record.values.get(SEALED, b"")
        inside = self._inside(sealed, _place(key, record)) if len(record.values) == 1 else None
        if inside is None:
            why = self._sealer.why(sealed).value
            _log.error("session=%s has a record that does not open and is left in place: %s", handle_of(key), why)
            return None
        return _with(record, inside.values, inside.created_ms / 1000, inside.principal, inside.cookie_age)

    def _inside(self, sealed: bytes, place: tuple[bytes, ...]) -> _Inside | None:
        data = self._sealer.open(sealed, place)
        try:
            return None if data is None else _decode(data)
        except msgspec.MsgspecError:  # a later version of this file sealed it
            return None

    def __repr__(self) -> str:
        return f"<Vault with {self._sealer!r}>"


def sealing(flow: Flow[T], vault: Vault) -> Flow[T]:
    """Return *flow* for a store that is to see sealed records only. Its other operations pass as they are."""
    try:
        op: Any = next(flow)
        while True:
            asked = _sealed(op, vault)
            try:
                answer = yield asked
            except StoreUnavailable as error:
                op = flow.throw(error)
            else:
                op = flow.send(_opened(op, answer, vault))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()


def _sealed(op: Any, vault: Vault) -> Any:
    if isinstance(op, (Create, Update)):
        return op._replace(record=vault.seal(op.key, op.record))
    return op


def _opened(op: Any, answer: Any, vault: Vault) -> Any:
    if isinstance(op, (Load, LoadSeen)):
        return vault.open(op.key, answer)
    if isinstance(op, LoadMany):
        return [vault.open(key, record) for key, record in zip(op.keys, answer, strict=True)]
    return answer


def _place(key: bytes, record: Record) -> tuple[bytes, bytes]:
    """Return where a sealed record belongs, and as what: version, retired, and the successor if it names one."""
    standing = _STANDING.pack(record.version, record.retired, record.successor is not None)
    return key, standing + (record.successor or b"")


_STANDING = struct.Struct(">Q??")


def _with(
    record: Record, values: Mapping[str, bytes], created_at: float, principal: str | None, cookie_age: int | None
) -> Record:
    """Return *record* with what is sealed replaced; in less than half of the time that ``_replace`` takes."""
    _, _, accessed_at, expires_at, version, _, _, retired, successor, seen = record
    return Record(values, created_at, accessed_at, expires_at, version, principal, cookie_age, retired, successor, seen)


def _to_ms(seconds: float) -> int:
    return max(round(seconds * 1000), 0)
