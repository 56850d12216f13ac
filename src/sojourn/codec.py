"""Values <-> bytes: tagged MessagePack with a version byte; data only, never code.

Rule 1: exact types only. MessagePack says None, bool, int, float, str, bytes, list and dict. Each other type is an
Ext: a code from _TABLE and, as its data, again MessagePack. A subclass is refused: it would come back as less.
Rule 2: one value, one spelling. Equal input gives equal bytes, and decode reads no other spelling than the one
that encode writes. So a session sees a change by encoding again and comparing.
Rule 3: a name in the bytes is looked up in a table that the application filled. Nothing is imported by name.
Rule 4: the same bounds hold in both directions: what can be read can be written again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from functools import cache, partial
from itertools import chain, count, repeat
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from msgspec import Raw, Struct, msgpack

from sojourn.core.delta import Resolver
from sojourn.errors import ConfigurationError, SessionTooLarge, ValueNotStorable, ValueUnreadable

_VERSION = b"\x01"

_pack = msgpack.Encoder().encode
_unpack = msgpack.Decoder().decode  # without a hook: an Ext stays an Ext, and no code of ours runs
_int_from_bytes = partial(int.from_bytes, signed=True)
_flat = chain.from_iterable
Types = Iterable[type] | Mapping[str, type]

ValueResolver = Callable[[Any, Any, Any], Any]
"""Given a key's values as read, found and written (None where there is none), returns the one to store."""


class Codec:
    """Turn session values into bytes and back, exactly in type and value. Threads may share it.

    Stored are None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, date, time, datetime,
    timedelta, Decimal, UUID; and if registered, Enum (by name), Flag (by number), dataclass and msgspec Struct.

    :param types: classes, stored under their ``__qualname__``; or ``{name: class}``, so that a class can be
        renamed. A class that has several names is written under the first and read under each.
    :param max_bytes: bound on one encoded value.
    :param max_depth: bound on containers inside containers; at most 100.
    :param max_items: bound on the members of all containers of one value together.
    :raises ConfigurationError: two classes have one name, a class cannot be stored, a bound makes no sense.

    A dataclass or Struct is rebuilt by calling the class with its fields, so what ``__post_init__`` does to a
    field must bear repeating. Fields that the call does not take (``init=False``) are stored too, and put back
    after it. A field that is new in the class takes its default; a stored one that it no longer has is refused.
    """

    def __init__(
        self, types: Types = (), *, max_bytes: int = 65536, max_depth: int = 32, max_items: int = 10_000
    ) -> None:
        if min(max_bytes, max_depth, max_items) < 1 or max_depth > 100:  # a level takes some frames of stack
            raise ConfigurationError("Codec: each bound is 1 or more, and max_depth at most 100")
        self._max_bytes, self._max_depth, self._max_items = max_bytes, max_depth, max_items
        self._quick_items = min(max_items, 1000)  # beyond, each container is counted before it is followed
        self._by_tag: dict[str, _Shape] = {}
        self._by_type: dict[type, _Shape] = {}
        for tag, cls in types.items() if isinstance(types, Mapping) else zip(repeat(None), types):
            shape = _shape(tag, cls)
            if self._by_tag.setdefault(shape.tag, shape).cls is not cls:
                raise ConfigurationError(f"Codec: two types are named {shape.tag!r}; use {{name: type}}")
            self._by_type.setdefault(cls, shape)

    def encode(self, value: object, key: str | None = None) -> bytes:
        """Give the bytes for *value*; the same value gives the same bytes, in every process.

        *key* is the session key under which it stands, for messages to begin with. Raises
        SessionTooLarge for too many items or bytes, and ValueNotStorable for all else that cannot be stored.
        """
        try:
            body = _pack(value) if _is_plain(value, self._quick_items, self._max_depth) else b""
        except Exception:  # a wide int, a lone surrogate, a class without a hash: the walk takes or names it
            body = b""
        data = _VERSION + (body or _Writer(self).write(value, _path(key)))
        if len(data) > self._max_bytes:
            raise SessionTooLarge(_path(key), f"it takes {len(data)} bytes, the bound is {self._max_bytes}")
        return data

    def decode(self, data: bytes, key: str | None = None) -> object:
        """Give back the value that *data* was made from; for all other bytes raise ValueUnreadable, with its cause."""
        try:
            if data[:1] != _VERSION or len(data) > self._max_bytes:
                bounds = f"this codec reads up to {self._max_bytes} that begin with {_VERSION!r}"
                raise _RefusalError(f"it is {len(data)} bytes that begin with {data[:1]!r}; {bounds}")
            body = data[1:]
            if body[0] in _ATOM_HEADS:
                return _unpack(body)  # it has one spelling, and no members to count
            tree = _read_tree(body)
            if _looks_plain(body, self._max_items, self._max_depth):
                return tree
            return tree if _is_plain(tree, self._quick_items, self._max_depth) else _Reader(self).visit(tree)
        except _RefusalError as error:
            raise ValueUnreadable(f"session{_path(key)} cannot be read: {error}") from error.__cause__
        except Exception as error:
            raise ValueUnreadable(f"session{_path(key)} cannot be read ({type(error).__name__})") from error


def _path(key: str | None) -> str:
    return "" if key is None else f"[{key!r}]"


class _RefusalError(Exception):
    """Why a value is not written or not read. Whoever catches it knows where."""

    def __init__(self, why: str, kind: type[ValueNotStorable] = ValueNotStorable) -> None:
        super().__init__(why)
        self.kind = kind


# ZoneInfo(name) looks for files and packages of that name, and a name from outside must not get so far. The set is
# read when the first ZoneInfo is met; that takes some 40 ms.
_zone_names = cache(available_timezones)


def _zone_to_tree(zone: tzinfo | None) -> object:
    """None; the key of a ZoneInfo; or [microseconds from UTC] and a name, if it is not the usual one."""
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key in _zone_names():
        return zone.key
    if type(zone) is timezone:
        offset, name = zone.utcoffset(None), zone.tzname(None)
        return [offset // timedelta(microseconds=1), *({name} - {timezone(offset).tzname(None)})]
    raise _RefusalError("its time zone is neither a datetime.timezone nor a ZoneInfo of the tz database")


def _zone_from_tree(tree: Any) -> tzinfo | None:
    if type(tree) is list:
        return timezone(timedelta(microseconds=tree[0]), *tree[1:])
    if tree is not None and tree not in _zone_names():
        raise _RefusalError(f"the tz database of this machine has no zone {_show(tree)}")
    return None if tree is None else ZoneInfo(tree)


def _clock_to_tree(value: time | datetime) -> list[object]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone_to_tree(value.tzinfo)]


def _clock_from_tree(kind: type[time] | type[datetime], tree: list[Any]) -> time | datetime:
    text, fold, zone = tree
    return kind.fromisoformat(text).replace(fold=fold, tzinfo=_zone_from_tree(zone))


def _sorted_members(members: Iterable[object]) -> list[object]:
    """Sort by encoding. A set comes in the order of hashes, which for str differ from process to process."""
    return [Raw(packed) for packed in sorted(map(_pack, members))]


class _Row(NamedTuple):
    """One type that MessagePack does not have. ``lower`` gives what it has, ``lift`` gives the value back."""

    code: int  # it stands in stored bytes: never give it to another type
    kind: type
    lower: Callable[[Any], object]
    lift: Callable[[Any], Any]
    holds: bool = False  # a container: members are lowered before it, and lifted before it


_TABLE = (
    # int and str have a row for what MessagePack leaves out: more than 64 bits, lone surrogates. An int is not
    # written in digits: CPython allows 4300. Of a Decimal, the thread's context says whether E or e is written.
    _Row(1, int, lambda v: v.to_bytes(v.bit_length() // 8 + 1, signed=True), _int_from_bytes),
    _Row(2, str, lambda v: v.encode("utf-8", "surrogatepass"), lambda t: t.decode("utf-8", "surrogatepass")),
    _Row(3, Decimal, lambda v: str(v).upper(), Decimal),
    _Row(4, UUID, lambda v: v.bytes, lambda t: UUID(bytes=t)),
    _Row(5, date, date.isoformat, date.fromisoformat),
    _Row(6, time, _clock_to_tree, partial(_clock_from_tree, time)),
    _Row(7, datetime, _clock_to_tree, partial(_clock_from_tree, datetime)),
    _Row(8, timedelta, lambda v: [v.days, v.seconds, v.microseconds], lambda t: timedelta(*t)),
    _Row(16, tuple, list, tuple, holds=True),
    _Row(17, set, _sorted_members, set, holds=True),
    _Row(18, frozenset, _sorted_members, frozenset, holds=True),
    # [key, value, …], for a dict with a key that a MessagePack map cannot have
    _Row(19, dict, list, lambda t: dict(zip(t[::2], t[1::2], strict=True)), holds=True),
)
_REGISTERED = 32  # the code of all types of the application: [tag, {field: value}]
_ROW_BY_TYPE = {row.kind: row for row in _TABLE}
_ROW_BY_CODE = {row.code: row for row in _TABLE}
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN = _ATOMS | {list, dict}  # all that may reach MessagePack as it is
_STORABLE = _PLAIN | _ROW_BY_TYPE.keys()


def _is_plain(value: object, max_items: int, max_depth: int) -> bool:
    """Whether only exact atoms, lists and dicts are inside, within the bounds. In doubt, False.

    Each value of each request comes by here, so the inner loops are left to C, one level a time. For lists and
    dicts, ``get_referents`` gives the members; it omits only keys that are exactly str.
    """
    level, items = [value], 0
    while level and max_depth and items <= max_items and _PLAIN.issuperset(map(type, level)):
        level = gc.get_referents(*level)
        items, max_depth = items + len(level), max_depth - 1
    return not level


# Of the bytes that begin a value: those of lists and maps stay, those of Ext become 0xff, the rest goes.
_EXT_HEADS = bytes([*range(0xC7, 0xCA), *range(0xD4, 0xD9)])
_MARK_EXT = bytes.maketrans(_EXT_HEADS, b"\xff" * len(_EXT_HEADS))
_NO_HEADS = bytes(set(range(256)).difference(range(0x80, 0xA0), range(0xDC, 0xE0), _EXT_HEADS))


# The first bytes of what has but one spelling: small ints, None, False, True, str of up to 31 bytes.
_ATOM_HEADS = frozenset([*range(0x80), *range(0xA0, 0xC1), 0xC2, 0xC3, *range(0xE0, 0x100)])


def _looks_plain(body: bytes, max_items: int, max_depth: int) -> bool:
    """Whether a glance shows that no Ext is inside and no bound is passed. In doubt, as beyond ASCII, False."""
    heads = body.translate(_MARK_EXT, _NO_HEADS)
    return len(heads) <= max_depth and 0xFF not in heads and len(body) <= max_items


def _read_tree(data: bytes) -> Any:
    tree = _unpack(data)
    if _pack(tree) != data:  # so no key comes twice, and no number is wider than it need be
        raise _RefusalError("it is not spelled as encode spells it, or has a key twice")
    return tree


def _is_native(value: Any) -> bool:
    """Whether MessagePack can say this: an atom; in the place of a key also a tuple, which is an array there."""
    kind = type(value)
    if kind is int:
        return bool(-(2**63) <= value < 2**64)
    if kind is str:  # not with lone surrogates
        return bool(value.isascii() or value.encode("utf-8", "ignore").decode() == value)
    return kind in _ATOMS or (kind is tuple and all(map(_is_native, value)))


def _show(key: object) -> str:
    """Show a key in a message: briefly, and without running code of its class."""
    return repr(key)[:42] if type(key) in (str, int) and _is_native(key) else f"<{type(key).__name__}>"


class _Walk:
    """One pass through one value. It knows where it is and how much it has seen."""

    visit: Callable[[Any], Any]

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._items = 0
        self._steps: list[object] = []  # one a level; after a refusal they still say where

    def _each(self, steps: Iterable[object], members: Iterable[Any], items: int) -> list[Any]:
        """Visit the members of a container of so many items, one level further down."""
        self._items += items
        if self._items > (bound := self._codec._max_items):
            raise _RefusalError(f"up to here are {self._items} items, the bound is {bound}", SessionTooLarge)
        if len(self._steps) == (bound := self._codec._max_depth):
            raise _RefusalError(f"it is nested deeper than {bound} levels, or in a cycle")
        self._steps.append(None)
        visited = [self.visit(member) for self._steps[-1], member in zip(steps, members, strict=False)]
        self._steps.pop()
        return visited

    def _inside(self, value: Any) -> list[Any]:
        """Visit all members; of a dict: key, value, key, value, …"""
        if type(value) is dict:
            return self._each(_flat(zip(value, value, strict=True)), _flat(value.items()), len(value))
        return self._each(count(), value, len(value))

    def _map(self, entries: dict[Any, Any]) -> dict[Any, Any]:
        """Visit a dict whose keys stay as they are."""
        if not _ATOMS.issuperset(map(type, entries)):  # a tuple has members, which count
            self._each(entries, entries, 0)
        return dict(zip(entries, self._each(entries, entries.values(), len(entries)), strict=True))


class _Writer(_Walk):
    """From a value to a tree of atoms, lists, dicts and Ext."""

    def write(self, value: object, path: str) -> bytes:
        try:
            return _pack(self.visit(value))
        except Exception as error:
            where = path + "".join(f"[{_show(step)}]" for step in self._steps)
            if isinstance(error, _RefusalError):
                raise error.kind(where, str(error)) from None
            raise ValueNotStorable(where, f"reading it raised {type(error).__name__}") from error

    def visit(self, value: Any) -> object:
        kind = type(value)
        if kind in _ATOMS and _is_native(value):
            return value
        if kind is list:
            return self._inside(value)
        if kind is dict and all(map(_is_native, value)):
            return self._map(value)
        if row := _ROW_BY_TYPE.get(kind):
            return msgpack.Ext(row.code, _pack(row.lower(self._inside(value) if row.holds else value)))
        if shape := self._codec._by_type.get(kind):
            state = {name: getattr(value, name) for name in shape.names}
            if issubclass(kind, Enum) and shape.make(state) is not value:
                raise _RefusalError("it is not one of the members of its Enum")
            return msgpack.Ext(_REGISTERED, _pack([shape.tag, self._map(state)]))
        raise _RefusalError(_cure(kind))


class _Reader(_Walk):
    """From a tree back to the value."""

    def visit(self, tree: Any) -> Any:
        kind = type(tree)
        if kind in _ATOMS:
            return tree
        if kind is msgpack.Ext:
            return self._ext(tree.code, tree.data)
        if kind is dict:
            return self._map(tree)
        if kind is list or kind is tuple:  # a tuple is an array in the place of a key
            return kind(self._inside(tree))
        raise _RefusalError("it has a timestamp of MessagePack, which encode never writes")

    def _ext(self, code: int, data: bytes) -> object:
        tree = _read_tree(data)
        if row := _ROW_BY_CODE.get(code):
            return self._row(row, tree, data)
        if code == _REGISTERED:
            return self._registered(*tree)
        raise _RefusalError(f"it has the unknown Ext code {code}")

    def _row(self, row: _Row, tree: Any, data: bytes) -> Any:
        """Lift a value. It must need the row, have no member twice, and be spelled as it would be written."""
        size = len(tree) // (2 if row.kind is dict else 1) if row.holds else 0
        value = row.lift(self._each(count(), tree, size) if row.holds else tree)
        odd = len(value) != size if row.holds else _is_native(value)
        odd = odd or (row.kind is dict and all(map(_is_native, value)))
        if odd or _pack(row.lower(tree if row.holds else value)) != data:
            raise _RefusalError(f"it has a {row.kind.__name__} that encode would not write so")
        return value

    def _registered(self, tag: str, state: dict[str, Any]) -> object:
        shape = self._codec._by_tag.get(tag)
        if shape is None:
            raise _RefusalError(f"no type is registered as {_show(tag)}; register it: Codec(types=[…])")
        if unknown := state.keys() - set(shape.names):
            raise _RefusalError(f"{tag} has no field {', '.join(sorted(map(_show, unknown)))}")
        state = self._map(state)
        try:
            made = shape.make(state)
        except Exception as error:
            raise _RefusalError(f"{tag} refused its fields: {type(error).__name__}") from error
        if type(made) is not shape.cls:  # a Flag that ejects unknown bits, an odd __new__
            raise _RefusalError(f"{tag} made something else of its fields")
        return made


class _Shape(NamedTuple):
    """How a registered type is taken apart, by names, and put together, by a call."""

    tag: str
    cls: type
    names: list[str]
    make: Callable[[dict[str, Any]], object]


def _shape(tag: str | None, cls: Any) -> _Shape:
    tag = getattr(cls, "__qualname__", None) if tag is None else tag
    if not (isinstance(cls, type) and isinstance(tag, str) and tag and tag.isprintable()):
        raise ConfigurationError(f"Codec: {tag!r}: {cls!r} is not a class under a printable name")
    if issubclass(cls, Flag):
        return _Shape(tag, cls, ["_value_"], lambda state: cls(state["_value_"]))
    if issubclass(cls, Enum):
        return _Shape(tag, cls, ["_name_"], lambda state: cls.__members__[state["_name_"]])
    if not (_is_dataclass(cls) or issubclass(cls, Struct)) or not _STORABLE.isdisjoint(cls.__mro__):
        raise ConfigurationError(f"Codec: {tag} is not an Enum, nor a mere dataclass or msgspec Struct")
    return _record_shape(tag, cls)


def _is_dataclass(cls: type) -> bool:
    return hasattr(cls, "__dataclass_fields__")


def _record_shape(tag: str, cls: Any) -> _Shape:
    import inspect  # noqa: PLC0415  these two bring ast and tokenize, and most applications register nothing
    from dataclasses import fields  # noqa: PLC0415

    names = [field.name for field in fields(cls)] if _is_dataclass(cls) else list(cls.__struct_fields__)
    try:
        signature = inspect.signature(cls)
        early = signature.parameters.keys() & names
        signature.bind(**dict.fromkeys(early))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"Codec: {tag} cannot be rebuilt from its fields: {error}") from error

    def make(state: dict[str, Any]) -> object:
        made = cls(**{name: state[name] for name in early & state.keys()})
        for name in state.keys() - early:
            object.__setattr__(made, name, state[name])
        return made

    return _Shape(tag, cls, names, make)


def _cure(kind: type) -> str:
    """Say what cannot be stored, and what to do about it."""
    name = f"its type is {kind.__module__}.{kind.__qualname__}"
    if issubclass(kind, (Enum, Struct)) or _is_dataclass(kind):
        return f"{name}; register it: Codec(types=[{kind.__name__}])"
    for base in filter(_STORABLE.__contains__, kind.__mro__):
        return f"{name}, a subclass of {base.__name__}; store a plain {base.__name__}"
    return f"{name}; store plain data that describes it, or a dataclass: Codec(types=[…])"


def on_bytes(codec: Codec, key: str, resolve: ValueResolver) -> Resolver:
    """Return *resolve*, for the value under *key*, as the core calls it: on encoded values."""

    def value(data: bytes | None) -> Any:
        return None if data is None else codec.decode(data, key)

    def resolver(read: bytes | None, found: bytes | None, written: bytes | None) -> bytes | None:
        answer = resolve(value(read), value(found), value(written))
        return None if answer is None else codec.encode(answer, key)

    return resolver
