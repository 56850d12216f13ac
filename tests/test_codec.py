"""Codec: what comes back is what went in; one value has one spelling; no bytes do harm."""

from __future__ import annotations

import ast
import collections
import dataclasses
import decimal
import enum
import itertools
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zoneinfo
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sojourn.codec
from sojourn.codec import Codec
from sojourn.errors import ConfigurationError, SessionTooLarge, ValueNotStorable, ValueUnreadable

pack = msgspec.msgpack.encode


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"
    ROUGE = "red"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(enum.StrEnum):
    SMALL = "s"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Mode(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(kw_only=True, slots=True)
class Cart:
    lines: list[Any] = dataclasses.field(default_factory=list)
    visits: int = dataclasses.field(init=False, default=0)


class Money(msgspec.Struct, frozen=True, tag="money", rename="camel"):
    amount_due: Any
    currency: str = "EUR"


REGISTERED = [Colour, Level, Size, Right, Mode, Point, Cart, Money]
codec = Codec(REGISTERED)
bare = Codec()


def same(a: Any, b: Any) -> bool:
    """Equal in type and value all the way down, where a NaN is equal to itself."""
    if type(a) is not type(b):
        return False
    match a:
        case float():
            return struct.pack(">d", a) == struct.pack(">d", b)
        case Decimal():
            return bool(a.as_tuple() == b.as_tuple())
        case list() | tuple():
            return len(a) == len(b) and all(map(same, a, b))
        case dict():
            return same(list(a.items()), list(b.items()))
        case set() | frozenset():
            return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
        case datetime() | time():
            clock = a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold
            return clock and same_zone(a.tzinfo, b.tzinfo)
        case enum.Enum():
            return bool(a is b)
        case Point() | Cart():
            return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
        case Money():
            return same(a.amount_due, b.amount_due) and same(a.currency, b.currency)
    return bool(a == b)


def same_zone(a: Any, b: Any) -> bool:
    if type(a) is ZoneInfo:
        return a is b
    return type(a) is type(b) and repr(a) == repr(b)


def nested(depth: int, inner: object = 1) -> object:
    value = inner
    for _ in range(depth):
        value = [value]
    return value


def ext(code: int, tree: object) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, pack(tree))


# --- What comes back is what went in ---

FIXED = [UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(0), "Z"), None]
ZONES = st.sampled_from([*FIXED, timezone(timedelta(microseconds=1)), ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")])
TEXT = st.text(st.characters(), max_size=8) | st.text(st.characters(categories=["Cs", "L"]), max_size=3)
FOLDS = st.sampled_from([0, 1])
SPECIAL = ["NaN", "-NaN123", "sNaN", "-sNaN7", "Infinity", "-Infinity", "0E+9", "-0.00", "1.10", "1E-999999"]
ATOMS = {
    "None": st.none(),
    "bool": st.booleans(),
    "int": st.integers()
    | st.binary(max_size=375).map(lambda data: int.from_bytes(data, signed=True))
    | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63) - 1]),
    "float": st.floats(),
    "str": TEXT,
    "bytes": st.binary(max_size=8),
    "date": st.dates(),
    "time": st.builds(lambda t, zone, fold: t.replace(tzinfo=zone, fold=fold), st.times(), ZONES, FOLDS),
    "datetime": st.builds(lambda t, zone, fold: t.replace(tzinfo=zone, fold=fold), st.datetimes(), ZONES, FOLDS),
    "timedelta": st.timedeltas(),
    "Decimal": st.decimals() | st.sampled_from(SPECIAL).map(Decimal),
    "UUID": st.uuids(),
    "enum": st.sampled_from([*Colour, *Level, *Size, *Right, Right(0), Right.READ | Right.WRITE, Mode(9), Mode(0)]),
}
# Deferred, since Hypothesis shows strategies by their parts, and of these parts it warns.
LEAVES = st.deferred(lambda: st.one_of(*ATOMS.values()))
KEYS = st.recursive(
    LEAVES.filter(lambda v: not (isinstance(v, Decimal) and v.is_snan())),
    lambda k: (
        st.lists(k, max_size=3).map(tuple) | st.frozensets(k, max_size=3) | st.builds(Point, k, k) | st.builds(Money, k)
    ),
    max_leaves=4,
)


def carts(lines: list[Any], visits: int) -> Cart:
    cart = Cart(lines=lines)
    cart.visits = visits
    return cart


VALUES = st.recursive(
    LEAVES,
    lambda v: (
        st.lists(v, max_size=4)
        | st.lists(v, max_size=4).map(tuple)
        | st.dictionaries(TEXT, v, max_size=4)
        | st.dictionaries(KEYS, v, max_size=3)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.builds(Point, v, v)
        | st.builds(Money, v)
        | st.builds(carts, st.lists(v, max_size=3), st.integers())
    ),
    max_leaves=12,
)
PLAIN = st.recursive(
    st.one_of(*(ATOMS[name] for name in ("None", "bool", "int", "float", "str", "bytes"))),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT | st.integers() | st.none(), v, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", ATOMS)
def test_each_type_comes_back_exactly(kind: str) -> None:
    @settings(max_examples=50)
    @given(ATOMS[kind])
    def check(value: object) -> None:
        assert same(codec.decode(codec.encode(value)), value)

    check()


@settings(max_examples=120)
@given(VALUES)
def test_mixtures_come_back_exactly_and_are_written_the_same_again(value: object) -> None:
    data = codec.encode(value)
    back = codec.decode(data)
    assert same(back, value)
    assert codec.encode(back) == data


@settings(max_examples=80)
@given(VALUES | PLAIN)
def test_the_short_way_and_the_long_way_agree(value: object) -> None:
    data = codec.encode(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sojourn.codec, "_is_plain", lambda *_: False)
        patch.setattr(sojourn.codec, "_looks_plain", lambda *_: False)
        assert codec.encode(value) == data
        assert same(codec.decode(data), value)


@pytest.mark.parametrize("number", [10**5000, -(10**5000), 2 ** (8 * 60_000)], ids=["long", "negative", "longest"])
def test_an_int_of_any_size_passes_without_decimal_digits(number: int) -> None:
    """CPython turns no int of more than 4300 digits into text, nor back."""
    assert codec.decode(codec.encode([number])) == [number]


def test_what_the_json_world_would_lose_is_kept() -> None:
    value = {1: "int", "1": "str", None: 0, (1, "a"): [(), [], {}, set()], b"1": 1.0, 2.5: True, (): -0.0}
    assert same(codec.decode(codec.encode(value)), value)


def test_the_order_of_a_dict_is_kept() -> None:
    for keys in itertools.permutations(["b", "a", 3, Decimal(2)]):
        assert list(codec.decode(codec.encode(dict.fromkeys(keys)))) == list(keys)  # type: ignore[call-overload]


def test_a_fold_and_the_identity_of_a_zone_survive() -> None:
    """Arithmetic between two datetimes differs when their zones are equal but not identical."""
    second = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    back = codec.decode(codec.encode(second))
    assert isinstance(back, datetime)
    assert back.tzinfo is second.tzinfo
    assert back.utcoffset() == timedelta(hours=1)
    assert codec.decode(codec.encode(datetime(2024, 1, 1, tzinfo=UTC))).tzinfo is UTC  # type: ignore[attr-defined]


def test_threads_may_share_a_codec() -> None:
    value = {"when": datetime(2024, 5, 1), "cart": [Point(n, {n}) for n in range(20)]}
    data = codec.encode(value)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(codec.encode, [value] * 200)) == {data}
        assert all(same(back, value) for back in pool.map(codec.decode, [data] * 200))


# --- One value, one spelling ---


def test_equal_sets_are_written_alike_however_they_were_built() -> None:
    words = [f"word{n}" for n in range(50)] + [8, 16, 0]
    assert len({codec.encode(set(random.Random(n).sample(words, len(words)))) for n in range(20)}) == 1


SPELL = """
import sys
from decimal import Decimal
from sojourn.codec import Codec
words = ["a", "b", "ccc", "ä", b"x", None, (1, "z"), frozenset("xyz"), Decimal("1.0")]
value = [set(words), {frozenset(words): {"k": frozenset(map(str, range(99)))}}, {(1, frozenset("pq")): 1}]
sys.stdout.write(Codec().encode(value).hex())
"""


def run(program: str, *, seed: str = "0", data: str = "") -> str:
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=data,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_process_writes_the_same_bytes() -> None:
    assert len({run(SPELL, seed=seed) for seed in ("1", "2", "3")}) == 1


def test_the_decimal_context_of_a_thread_does_not_show() -> None:
    numbers = [Decimal("1E+40"), Decimal("-sNaN"), Decimal("Infinity"), Decimal("1.234567890123456789")]
    data = codec.encode(numbers)
    strict = decimal.Context(prec=2, capitals=0, traps=[decimal.Inexact, decimal.FloatOperation, decimal.Rounded])
    with decimal.localcontext(strict):
        assert codec.encode(numbers) == data
        assert same(codec.decode(data), numbers)


VERSION_1 = {
    "01c0": None,
    "0182a26964cc80a4636172749183a1610aa162cb3ff8000000000000a163c3": {
        "id": 128,
        "cart": [{"a": 10, "b": 1.5, "c": True}],
    },
    "01c70b01c409010000000000000000": 2**64,
    "01c70502c403eda080": "\ud800",
    "01c70503a4312e3530": Decimal("1.50"),
    "01c71204c41000000000000000000000000000000001": UUID(int=1),
    "01c70b05aa323032342d30322d3239": date(2024, 2, 29),
    "01c70c0693a830313a30323a303300c0": time(1, 2, 3),
    "01c7150693a830313a30303a30300092ced693a400a3434554": time(1, tzinfo=timezone(timedelta(hours=1), "CET")),
    "01c72b0793ba323032342d30322d32395430313a30323a30332e30303030303401ad4575726f70652f4265726c696e": datetime(
        2024, 2, 29, 1, 2, 3, 4, fold=1, tzinfo=ZoneInfo("Europe/Berlin")
    ),
    "01c7180793b3323032342d30322d32395430303a30303a3030009100": datetime(2024, 2, 29, tzinfo=UTC),
    "01d60893010203": timedelta(1, 2, 3),
    "01d61092019102": (1, [2]),
    "01c7051192a161a162": {"b", "a"},
    "01d5129101": frozenset([1]),
    "01c7061392d503a13102": {Decimal(1): 2},
    "018192010203": {(1, 2): 3},
    "01c7142092a6436f6c6f757281a65f6e616d655fa3524544": Colour.RED,
    "01c7112092a5526967687481a75f76616c75655f03": Right.READ | Right.WRITE,
    "01c7112092a5506f696e7482a17801a179d5109102": Point(1, (2,)),
    "01c7212092a54d6f6e657982aa616d6f756e745f64756505a863757272656e6379a3455552": Money(5),
}


@pytest.mark.parametrize("stored", VERSION_1)
def test_bytes_of_version_1_stay_readable(stored: str) -> None:
    """These bytes are in stores. They may mean something else only behind another version byte."""
    value = VERSION_1[stored]
    assert same(codec.decode(bytes.fromhex(stored)), value)
    assert codec.encode(value).hex() == stored


# --- What is not stored is refused, with its path and its cure ---


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Pair(NamedTuple):
    a: int
    b: int


class Stamp(datetime):
    pass


class Meta(type):
    def __eq__(cls, other: object) -> bool:
        return True


class Loud(metaclass=Meta):
    """Its class cannot be hashed."""


@dataclasses.dataclass
class Unknown:
    x: int = 0


class UnknownStruct(msgspec.Struct, frozen=True):
    x: int = 0


class UnknownEnum(enum.IntEnum):
    A = 1


SUBCLASSES = {
    "str": Text("x"),
    "int": Number(1),
    "float": type("Real", (float,), {})(1.0),
    "bytes": type("Octets", (bytes,), {})(b"x"),
    "list": type("Row", (list,), {})(),
    "tuple": Pair(1, 2),
    "dict": collections.OrderedDict(a=1),
    "set": type("Bag", (set,), {})(),
    "frozenset": type("Ice", (frozenset,), {})(),
    "datetime": Stamp(2024, 1, 1),
    "Decimal": type("Price", (Decimal,), {})("1.0"),
    "UUID": type("Key", (UUID,), {})(int=1),
}
FOREIGN = {
    "object": object(),
    "function": len,
    "lambda": lambda: None,
    "class": int,
    "enum class": Colour,
    "module": os,
    "iterator": iter([]),
    "range": range(3),
    "complex": 1j,
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "ellipsis": ...,
    "NotImplemented": NotImplemented,
    "exception": ValueError("x"),
    "path": Path("x"),
    "ext": ext(1, 1),
    "raw": msgspec.Raw(b"\x01"),
    "unset": msgspec.UNSET,
    "zone": UTC,
    "deque": collections.deque(),
    "unhashable class": Loud(),
}
UNREGISTERED = {"dataclass": Unknown(), "Struct": UnknownStruct(), "Enum": UnknownEnum.A}
REFUSED = {**SUBCLASSES, **FOREIGN, **UNREGISTERED}


def refusal(value: object, codec: Codec = codec) -> ValueNotStorable:
    with pytest.raises(ValueNotStorable) as caught:
        codec.encode(value, "k")
    assert str(caught.value).startswith(f"session{caught.value.path} cannot be stored: ")
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_but_exact_types_is_stored_wherever_it_stands(name: str) -> None:
    bad = REFUSED[name]
    deep = {"cart": [1, {"price": bad}, datetime(2024, 1, 1)]}
    assert refusal(bad).path == "['k']"
    assert refusal([0, bad]).path == "['k'][1]"
    assert refusal((bad,)).path == "['k'][0]"
    assert refusal({"a": {7: bad}}).path == "['k']['a'][7]"
    assert refusal(deep).path == "['k']['cart'][1]['price']"
    assert refusal(Point(Cart(lines=[bad]))).path == "['k']['x']['lines'][0]"
    assert refusal(Money(bad)).path == "['k']['amount_due']"
    assert refusal({Decimal(1): bad}).path == "['k'][<Decimal>]"


@pytest.mark.parametrize(
    "name", [name for name, bad in REFUSED.items() if "hash" not in name and isinstance(bad, Hashable)]
)
def test_keys_and_members_of_sets_are_no_way_around(name: str) -> None:
    bad = REFUSED[name]
    assert refusal({bad: 1}).path.startswith("['k'][")
    assert refusal({(1, bad): 1}).path.startswith("['k'][")
    assert refusal({bad}).path == "['k'][0]"
    assert refusal(frozenset([bad])).path == "['k'][0]"


@pytest.mark.parametrize("name", SUBCLASSES)
def test_a_refused_subclass_is_told_the_plain_type(name: str) -> None:
    bad = SUBCLASSES[name]
    assert f"{type(bad).__qualname__}, a subclass of {name}; store a plain {name}" in str(refusal(bad))


@pytest.mark.parametrize("name", UNREGISTERED)
def test_a_type_that_can_be_registered_is_told_so_and_then_passes(name: str) -> None:
    bad = UNREGISTERED[name]
    assert f"register it: Codec(types=[{type(bad).__name__}])" in str(refusal(bad))
    cured = Codec([type(bad)])
    assert same(cured.decode(cured.encode(bad)), bad)


def test_markup_is_refused_as_the_subclass_that_it_is() -> None:
    markup = pytest.importorskip("markupsafe").Markup("<b>")
    assert "Markup, a subclass of str; store a plain str" in str(refusal({"html": [markup]}))


class Odd(tzinfo):
    utcoffset = dst = tzname = lambda self, when: None


class OddZone(ZoneInfo):
    pass


def test_a_time_zone_that_cannot_come_back_is_refused() -> None:
    with (Path(zoneinfo.TZPATH[0]) / "UTC").open("rb") as file:
        nameless = ZoneInfo.from_file(file)
    for zone in (Odd(), OddZone("UTC"), nameless):
        assert "time zone" in str(refusal([datetime(2024, 1, 1, tzinfo=zone)]))
        assert "time zone" in str(refusal([time(1, tzinfo=zone)]))


def test_no_value_is_shown_in_a_message() -> None:
    secret = "s3cret" * 20
    assert secret not in str(refusal([Text(secret)]))
    assert secret not in str(refusal({secret: Text(secret)}))
    assert "s3cret" not in str(refusal({(secret,): Text(secret)}))
    with pytest.raises(SessionTooLarge) as caught:
        Codec(max_bytes=10).encode(secret)
    assert "s3cret" not in str(caught.value)


def cycles() -> list[Any]:
    row: list[Any] = []
    row.append(row)
    table: dict[str, Any] = {}
    table["again"] = table
    pair: tuple[list[Any]] = ([],)
    pair[0].append(pair)
    cart = Cart()
    cart.lines.append(cart)
    return [row, table, pair, cart]


@pytest.mark.parametrize("value", cycles())
def test_a_cycle_is_refused(value: object) -> None:
    assert "32 levels, or in a cycle" in str(refusal(value))


@pytest.mark.parametrize("inner", [1, "ü", [], {}, (), datetime(2024, 1, 1)])
def test_depth_has_one_bound_whatever_way_is_taken(inner: object) -> None:
    most = 32 - isinstance(inner, list | dict | tuple)
    assert same(codec.decode(codec.encode(nested(most, inner))), nested(most, inner))
    assert "nested deeper than 32 levels" in str(refusal(nested(most + 1, inner)))
    with pytest.raises(ValueUnreadable):
        codec.decode(Codec(REGISTERED, max_depth=33).encode(nested(most + 1, inner)))


def test_very_deep_nesting_is_refused_without_a_recursion_error() -> None:
    key: Any = ()
    for _ in range(5_000):
        key = (key,)
    for value in (nested(100_000), {"a": nested(100_000, datetime(2024, 1, 1))}, {key: 1}, {(key, UTC)}):
        refusal(value)


def test_a_stack_that_is_nearly_full_is_no_reason_for_a_recursion_error() -> None:
    value = nested(30, (1,))

    def down(frames: int) -> None:
        if frames:
            return down(frames - 1)
        with pytest.raises(ValueNotStorable, match="RecursionError"):
            codec.encode(value)
        return None

    frames, frame = 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        frames += 1
    down(sys.getrecursionlimit() - frames - 60)


def test_sharing_does_not_multiply_the_work() -> None:
    tower: list[Any] = []
    for _ in range(30):
        tower = [tower, tower]
    assert "items" in str(refusal(tower))
    assert "items" in str(refusal((tower,)))


# --- Bounds ---


def test_bytes_are_bounded_in_both_directions() -> None:
    small, large = Codec(max_bytes=100), Codec()
    for fits, not_fits in ((b"x" * 97, b"x" * 98), ((b"x" * 93,), (b"x" * 94,))):
        assert small.decode(small.encode(fits)) == fits
        with pytest.raises(SessionTooLarge, match="101 bytes, the bound is 100"):
            small.encode(not_fits, "k")
        with pytest.raises(ValueUnreadable, match=r"\['k'\].* 101 bytes.* up to 100"):
            small.decode(large.encode(not_fits), "k")


@pytest.mark.parametrize(
    "seal", [list, tuple, set, frozenset, lambda n: dict.fromkeys(n), lambda n: [[], *list(n)[1:]]]
)
def test_items_are_bounded_in_both_directions(seal: Any) -> None:
    small, large = Codec(max_items=50), Codec()
    assert small.decode(small.encode(seal(range(50)))) == seal(range(50))
    with pytest.raises(SessionTooLarge, match="51 items, the bound is 50"):
        small.encode(seal(range(51)))
    with pytest.raises(ValueUnreadable, match="51 items, the bound is 50"):
        small.decode(large.encode(seal(range(51))))


def test_items_of_all_containers_count_together() -> None:
    small = Codec(max_items=50)
    rows: list[Any] = [{"a": 1, "b": 2} for _ in range(16)]
    assert small.encode(rows)
    assert small.encode({Decimal(n): (1,) for n in range(25)})
    with pytest.raises(SessionTooLarge, match="items, the bound is 50"):
        small.encode([*rows, {}, {}, {}])
    with pytest.raises(SessionTooLarge, match="items, the bound is 50"):
        small.encode({(n, n): 1 for n in range(17)})


def test_a_large_value_within_the_bounds_passes() -> None:
    value = {"numbers": list(range(9_000)), "text": "ü" * 10_000}
    assert codec.decode(codec.encode(value)) == value
    large = Codec(max_bytes=200_000, max_items=200_000)
    assert large.decode(large.encode((b"x" * 70_000,))) == (b"x" * 70_000,)


@pytest.mark.parametrize("bound", ["max_bytes", "max_depth", "max_items"])
def test_a_bound_that_makes_no_sense_is_refused_when_built(bound: str) -> None:
    for wrong in (0, -1):
        setting: dict[str, Any] = {bound: wrong}
        with pytest.raises(ConfigurationError, match="1 or more"):
            Codec(**setting)
    with pytest.raises(ConfigurationError, match="at most 100"):
        Codec(max_depth=101)


# --- Types of the application ---


def test_a_field_that_is_new_takes_its_default() -> None:
    old = dataclasses.make_dataclass("V", [("a", int)])
    new = dataclasses.make_dataclass("V", [("a", int), ("tags", list, dataclasses.field(default_factory=list))])
    back = Codec([new]).decode(Codec([old]).encode(old(1)))
    assert back == new(1, [])


def test_a_new_field_of_a_struct_takes_its_default() -> None:
    old, new = msgspec.defstruct("V", ["a"]), msgspec.defstruct("V", ["a", ("b", int, 5)])
    back = Codec([new]).decode(Codec([old]).encode(old(1)))
    assert back == new(1, 5)


@pytest.mark.parametrize("make", [dataclasses.make_dataclass, msgspec.defstruct])
def test_a_field_that_is_gone_or_lacks_a_default_is_refused_by_name(make: Any) -> None:
    one, two = make("V", ["a"]), make("V", ["a", "b"])
    with pytest.raises(ValueUnreadable, match=r"\['k'\].*V has no field 'b'"):
        Codec([one]).decode(Codec([two]).encode(two(1, 2)), "k")
    with pytest.raises(ValueUnreadable, match="V refused its fields: TypeError") as caught:
        Codec([two]).decode(Codec([one]).encode(one(1)))
    assert isinstance(caught.value.__cause__, TypeError)


def test_the_error_of_a_class_is_kept_as_the_cause() -> None:
    @dataclasses.dataclass
    class Age:
        years: int

        def __post_init__(self) -> None:
            if self.years < 0:
                raise LookupError("no such age")

    ages = Codec({"Age": Age})
    age = Age(1)
    age.years = -1
    with pytest.raises(ValueUnreadable, match=r"session\['age'\] .*Age refused its fields: LookupError") as caught:
        ages.decode(ages.encode([age]), "age")
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_class_that_refuses_to_be_read_is_named() -> None:
    @dataclasses.dataclass
    class Lazy:
        value: int = dataclasses.field(init=False)

    error = refusal([1, Lazy()], Codec([Lazy]))
    assert error.path == "['k'][1]"
    assert isinstance(error.__cause__, AttributeError)


def test_fields_that_init_does_not_take_come_back_too() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Counter:
        start: int
        seen: int = dataclasses.field(init=False)
        total: int = dataclasses.field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "seen", self.start)

    counters = Codec([Counter])
    counter = Counter(5)
    object.__setattr__(counter, "seen", 6)
    assert counters.decode(counters.encode(counter)) == counter


def test_a_class_can_be_renamed_and_moved() -> None:
    old, new = dataclasses.make_dataclass("Old", ["a"]), dataclasses.make_dataclass("New", ["a"])
    stored = Codec([old]).encode(old(1))
    both = Codec({"New": new, "Old": new})
    assert both.decode(stored) == new(1)
    assert both.encode(new(1)) == Codec([new]).encode(new(1))


def test_an_enum_is_stored_by_name_so_its_values_may_change() -> None:
    class Before(enum.Enum):
        A, B = 1, 2

    class After(enum.Enum):
        A, C, B = "one", 3, 3

    before, after = Codec({"E": Before}), Codec({"E": After})
    assert after.decode(before.encode([Before.A, Before.B])) == [After.A, After.C]
    with pytest.raises(ValueUnreadable, match="E refused"):
        before.decode(after.encode(After.C))


def test_flags_keep_combinations_and_refuse_unknown_ones() -> None:
    class Wide(enum.Flag):
        A, B = 1, 2

    class Ejecting(enum.Flag, boundary=enum.EJECT):
        A = 1

    class Strict(enum.Flag):
        A = 1

    wide = Codec({"F": Wide})
    assert wide.decode(wide.encode(Wide.A | Wide.B)) is Wide.A | Wide.B
    for narrow in (Codec({"F": Ejecting}), Codec({"F": Strict})):
        assert narrow.decode(wide.encode(Wide.A))
        with pytest.raises(ValueUnreadable, match="F "):
            narrow.decode(wide.encode(Wide.B))


def test_a_member_that_its_enum_does_not_know_is_refused() -> None:
    class Open(enum.Enum):
        A = 1

        @classmethod
        def _missing_(cls, value: object) -> Any:
            ghost = object.__new__(cls)
            ghost._name_, ghost._value_ = "GHOST", value
            return ghost

    refusal([Open(7)], Codec([Open]))


def test_a_subclass_of_a_registered_type_is_not_that_type() -> None:
    sub = dataclasses.make_dataclass("Sub", [("z", int, 0)], bases=(Unknown,))
    assert "Sub; register it" in str(refusal(sub(1), Codec([Unknown])))


def with_init_var() -> type:
    return dataclasses.make_dataclass("InitVarOne", ["a", ("b", dataclasses.InitVar[int])])


def with_positional_init() -> type:
    class Positional:
        def __init__(self, a: int, /) -> None:
            self.a = a

    Positional.__annotations__ = {"a": int}
    return dataclasses.dataclass(init=False)(Positional)


@pytest.mark.parametrize(
    "cls",
    [
        int,
        object,
        collections.OrderedDict,
        Text,
        Pair,
        dataclasses.make_dataclass("D", ["a"], bases=(dict,)),
        dataclasses.make_dataclass("S", ["a"], bases=(str,)),
        with_init_var(),
        with_positional_init(),
        list[int],
        Colour.RED,
        "Colour",
        None,
    ],
    ids=str,
)
def test_what_cannot_be_rebuilt_cannot_be_registered(cls: Any) -> None:
    with pytest.raises(ConfigurationError, match="Codec: "):
        Codec([cls])
    with pytest.raises(ConfigurationError, match="Codec: "):
        Codec({"name": cls})


def test_two_types_with_one_name_are_refused_when_built() -> None:
    other = dataclasses.make_dataclass("Point", ["a"])
    with pytest.raises(ConfigurationError, match="two types are named 'Point'"):
        Codec([Point, other])
    assert Codec([Point, Point]).encode(Point(1))
    assert Codec({"Point": Point, "point-2": other}).encode([Point(1), other(1)])


@pytest.mark.parametrize("name", ["", "\ud800", "a\nb", 7])
def test_a_name_is_printable_text(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="printable"):
        Codec({name: Point})


def test_an_unregistered_tag_is_unreadable_and_told_the_cure() -> None:
    with pytest.raises(ValueUnreadable, match=r"session\['p'\] .* registered as 'Point'.*Codec\(types="):
        bare.decode(codec.encode([Point(1)]), "p")


# --- No bytes do harm ---


def unreadable(data: bytes, codec: Codec = bare) -> ValueUnreadable:
    with pytest.raises(ValueUnreadable) as caught:
        codec.decode(data, "k")
    assert str(caught.value).startswith("session['k']")
    return caught.value


def test_another_version_is_unreadable() -> None:
    for first in set(range(256)) - {1}:
        assert "begin with" in str(unreadable(bytes([first]) + pack(1)))


def registered(*tree: object) -> msgspec.msgpack.Ext:
    return ext(32, list(tree))


HOSTILE = {
    "nothing": b"",
    "only a version": b"\x01",
    "trailing": b"\x01" + pack(1) + b"\x00",
    "reserved byte": b"\x01\xc1",
    "no utf-8": b"\x01\xa2\xff\xff",
    "huge list": b"\x01\xdd\xff\xff\xff\xff",
    "huge map": b"\x01\xdf\xff\xff\xff\xff",
    "huge str": b"\x01\xdb\xff\xff\xff\xff",
    "huge bytes": b"\x01\xc6\xff\xff\xff\xff",
    "huge ext": b"\x01\xc9\xff\xff\xff\xff\x10",
    "long list with a long tail": b"\x01\xdd\x00\xff\xff\xff" + b"\x00" * 60_000,
    "lists all the way": b"\x01" + b"\x91" * 65_000 + b"\x00",
    "maps all the way": b"\x01" + b"\x81\x00" * 32_000 + b"\x00",
    "keys all the way": b"\x01" + b"\x81\x91" * 32_000 + b"\x00",
    "33 lists": b"\x01" + b"\x91" * 33 + b"\x00",
    "timestamp": b"\x01\xd6\xff\x00\x00\x00\x01",
    "timestamp as key": b"\x01\x81\xd6\xff\x00\x00\x00\x01\x00",
    "timestamp in a tuple as key": b"\x01\x81\x91\xd6\xff\x00\x00\x00\x01\x00",
    "list as key of a map as key": b"\x01\x81\x81\x01\x01\x01",
    "ext as key": b"\x01\x81" + pack(ext(16, [1])) + b"\x01",
    "key twice": b"\x01\x82\xa1a\x01\xa1a\x02",
    "equal keys": b"\x01\x82\x01\x01\xc3\x01",
    "tuple key twice": b"\x01\x82\x91\x01\x01\x91\xc3\x02",
    "wide number": b"\x01\xcd\x00\x01",
    "narrow float": b"\x01\xca\x00\x00\x00\x00",
    "long str": b"\x01\xd9\x01a",
    "long list": b"\x01\xdc\x00\x00",
    "long ext": b"\x01\xc7\x02\x10\x91\x01",
}
TREES = {
    "unknown code": ext(99, 1),
    "negative code": ext(-2, 1),
    "code 0": ext(0, 1),
    "no MessagePack": msgspec.msgpack.Ext(16, b"\xc1"),
    "empty": msgspec.msgpack.Ext(16, b""),
    "small int": ext(1, b"\x01"),
    "padded int": ext(1, b"\x00" + (2**64).to_bytes(9)),
    "int in digits": ext(1, "1"),
    "int in a list": ext(1, [1, 2, 3]),
    "plain str": ext(2, b"abc"),
    "broken str": ext(2, b"\xff"),
    "Decimal of a float": ext(3, 1.5),
    "Decimal of a list": ext(3, [0, [1, 2], 0]),
    "Decimal of nothing": ext(3, ""),
    "Decimal of a word": ext(3, "one"),
    "Decimal in small letters": ext(3, "1e+9"),
    "Decimal with a blank": ext(3, " 1"),
    "Decimal out of range": ext(3, "1E+99999999999999999999"),
    "short UUID": ext(4, b"x"),
    "UUID as str": ext(4, "0" * 32),
    "UUID as list": ext(4, [0] * 16),
    "date of a pickle": ext(5, b"\x07\xe8\x02\x1d"),
    "date in a week": ext(5, "2024-W09-4"),
    "no date": ext(5, "2023-02-29"),
    "datetime as date": ext(5, "2024-02-29T00:00:00"),
    "time of a pickle": ext(6, [b"\x01\x02\x03\x00\x00\x00", 0, None]),
    "time with a zone inside": ext(6, ["01:02:03+01:00", 0, None]),
    "fold of 2": ext(6, ["01:02:03", 2, None]),
    "fold of true": ext(6, ["01:02:03", True, None]),
    "unknown zone": ext(6, ["01:02:03", 0, "Middle/Earth"]),
    "zone out of the tree": ext(6, ["01:02:03", 0, "../../../etc/passwd"]),
    "zone that is a package": ext(6, ["01:02:03", 0, "os/path"]),
    "zone that is a map": ext(6, ["01:02:03", 0, {}]),
    "zone of two days": ext(6, ["01:02:03", 0, [172_800_000_000]]),
    "zone with its usual name": ext(6, ["01:02:03", 0, [0, "UTC"]]),
    "zone of too much": ext(6, ["01:02:03", 0, [0, "Z", 1]]),
    "empty zone": ext(6, ["01:02:03", 0, []]),
    "datetime in other letters": ext(7, ["2024-02-29 00:00:00", 0, None]),
    "datetime of a pickle": ext(7, [b"\x07\xe8\x02\x1d\x00\x00\x00\x00\x00\x00", 0, None]),
    "too long a timedelta": ext(8, [10**10, 0, 0]),
    "timedelta with too many seconds": ext(8, [0, 86_400, 0]),
    "timedelta of weeks": ext(8, [0, 0, 0, 0, 0, 0, 1]),
    "tuple of a map": ext(16, {1: 2}),
    "tuple of a str": ext(16, "ab"),
    "tuple of bytes": ext(16, b"ab"),
    "tuple of an int": ext(16, 3),
    "tuple of an ext": ext(16, ext(16, [])),
    "unsorted set": ext(17, [2, 1]),
    "member twice": ext(17, [1, 1]),
    "equal members": ext(17, [1, True]),
    "list in a set": ext(17, [[]]),
    "set of a map": ext(17, {1: 2}),
    "sNaN in a frozenset": ext(18, [ext(3, "SNAN")]),
    "dict that could be a map": ext(19, ["a", 1]),
    "dict that could be a map with a tuple": ext(19, [ext(16, [1]), 1]),
    "dict without an end": ext(19, [ext(3, "1")]),
    "dict with a key twice": ext(19, [ext(3, "1"), 1, ext(3, "1"), 2]),
    "dict with equal keys": ext(19, [ext(3, "1"), 1, 1, 2]),
    "dict with a list as key": ext(19, [[], 1]),
    "empty dict": ext(19, []),
    "dict of a str": ext(19, "ab"),
    "dict of a map": ext(19, {"a": 1}),
    "tag alone": registered("Point"),
    "tag without fields": registered("Point", None),
    "fields as list": registered("Point", [1, 2]),
    "too much": registered("Point", {"x": 1}, 1),
    "tag of a list": registered([], {"x": 1}),
    "tag of a number": registered(7, {"x": 1}),
    "tag that names a module": registered("os.system", {"command": "true"}),
    "tag that names a builtin": registered("eval", {"source": "1"}),
    "attribute that is no field": registered("Point", {"x": 1, "__class__": 1}),
    "field that is no str": registered("Point", {"x": 1, 7: 1}),
    "no fields": registered("Point", {}),
    "enum without a name": registered("Colour", {}),
    "enum by value": registered("Colour", {"_value_": "red"}),
    "enum of a list": registered("Colour", {"_name_": []}),
    "enum of an attribute": registered("Colour", {"_name_": "__class__"}),
    "flag of a str": registered("Right", {"_value_": "READ"}),
    "flag of a list": registered("Right", {"_value_": []}),
    "unknown flag": registered("Right", {"_value_": 64}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bytes_that_encode_never_writes_are_unreadable(name: str) -> None:
    unreadable(HOSTILE[name])
    unreadable(HOSTILE[name], codec)


@pytest.mark.parametrize("name", TREES)
def test_data_that_encode_never_writes_is_unreadable(name: str) -> None:
    for tree in (TREES[name], [1, TREES[name]], {"ü" * 40: TREES[name]}):
        unreadable(b"\x01" + pack(tree), codec)


def test_a_zone_is_only_ever_one_of_the_tz_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZoneInfo would look for a file, and for a package, of any name that it is given."""
    monkeypatch.setattr(sojourn.codec, "ZoneInfo", lambda name: pytest.fail(f"looked for {name}"))
    for name in ("Middle/Earth", "os/path", "../../../etc/passwd", "/etc/localtime", "", "tzdata.zi"):
        unreadable(b"\x01" + pack(ext(6, ["01:02:03", 0, name])))


def test_nested_ext_is_bounded_like_all_nesting() -> None:
    data = pack(1)
    for level in range(1, 200):
        data = pack(msgspec.msgpack.Ext(16, b"\x91" + data))
        if level <= 32:
            assert bare.decode(b"\x01" + data)
        else:
            assert "32 levels" in str(unreadable(b"\x01" + data))


def test_a_map_with_a_deep_tuple_as_key_is_bounded_like_all_nesting() -> None:
    for ways in (b"\x01\x81" + b"\x91" * 31 + b"\x01\x01", b"\x01\x81" + b"\x91" * 31 + b"\x01\xa2\xc3\xbc"):
        assert bare.encode(bare.decode(ways)) == ways
        assert "32 levels" in str(unreadable(ways.replace(b"\x81\x91", b"\x81\x91\x91")))


def test_every_beginning_of_a_value_is_unreadable() -> None:
    data = codec.encode(list(VERSION_1.values()))
    for end in range(len(data)):
        unreadable(data[:end], codec)


def reads_only_what_it_would_write(data: bytes) -> None:
    try:
        value = bare.decode(data)
    except ValueUnreadable:
        return
    assert bare.encode(value) == data


@settings(max_examples=300)
@given(st.binary(max_size=40))
@example(b"\x81\x92\x01\xc0\xc0")
def test_random_bytes_are_refused_or_are_what_encode_writes(data: bytes) -> None:
    reads_only_what_it_would_write(b"\x01" + data)


@pytest.mark.parametrize("seed", range(6))
def test_changed_bytes_are_refused_or_are_what_encode_writes(seed: int) -> None:
    chance = random.Random(seed)
    plain = [v for v in VERSION_1.values() if type(v) not in REGISTERED]
    whole = bytearray(bare.encode({"all": plain, "set": {1, "a", (2,)}, Decimal(3): [{"x": -1, "y": "ü"}]}))
    for _ in range(400):
        data = whole.copy()
        for _ in range(chance.choice([1, 1, 2, 5])):
            at = chance.randrange(1, len(data))
            match chance.randrange(3):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at : at + chance.randrange(4)]
                case 2:
                    data[at:at] = chance.randbytes(chance.randrange(4))
        reads_only_what_it_would_write(bytes(data))


@settings(max_examples=60)
@given(VALUES, st.integers(0, 2**32))
def test_changed_bytes_of_registered_types_raise_nothing_else(value: object, change: int) -> None:
    data = bytearray(codec.encode(value))
    data[change % len(data)] ^= 1 + (change >> 8) % 255
    try:
        codec.decode(bytes(data))
    except ValueUnreadable as error:
        assert str(error).startswith("session")  # noqa: PT017


WATCH = """
import json, pickle, random, sys
from datetime import datetime
from zoneinfo import ZoneInfo
from sojourn.codec import Codec
from sojourn.errors import ValueUnreadable

codec = Codec()
whole = codec.encode([datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), {(1,): {2}}, "text" * 9])
codec.decode(whole)  # the tz database is read once, from a name that the program gave
payloads = [bytes.fromhex(text) for text in json.load(sys.stdin)]
chance, seen = random.Random(1), set()
for _ in range(3000):
    data = bytearray(whole)
    for _ in range(3):
        data[chance.randrange(1, len(data))] = chance.randrange(256)
    payloads += bytes(data), b"\\x01" + chance.randbytes(30)
sys.addaudithook(lambda event, _: seen.add(event))
for payload in payloads:
    try:
        codec.decode(payload)
    except ValueUnreadable:
        pass
watched = set(seen)
pickle.loads(pickle.dumps(chance))
assert "pickle.find_class" in seen, "the watch is asleep"
print(json.dumps(sorted(watched)))
"""


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


def test_no_payload_runs_or_imports_anything() -> None:
    """Items 87 and 88: what an unpickler, a marshal reader or a YAML loader would run is only bytes here."""
    yaml = b"!!python/object/apply:os.system ['exit 1']"
    marshal = bytes.fromhex("e3000000000000000000000000")
    bombs = [pickle.dumps(Bomb(), protocol) for protocol in range(6)] + [yaml, marshal]
    zones = [tree for name, tree in TREES.items() if "zone" in name]
    payloads = [*bombs, *(b"\x01" + bomb for bomb in bombs), *(b"\x01" + pack(bomb) for bomb in bombs)]
    payloads += [b"\x01" + pack(tree) for tree in [*TREES.values(), *zones, *map(pack, bombs)]]
    payloads += [b"\x01" + pack(ext(code, bomb)) for code in range(34) for bomb in bombs]
    events = set(json.loads(run(WATCH, data=json.dumps([p.hex() for p in payloads]))))
    assert events <= {"gc.get_referents", "object.__getattr__"}


def test_the_module_imports_nothing_that_runs_data() -> None:
    source = Path(sojourn.codec.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "marshal", "shelve", "copyreg", "importlib", "ast", "jsonpickle", "yaml"}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}
