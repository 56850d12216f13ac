"""With keys, a store sees nothing that it could tell, and whatever it answers opens in its own place or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import MemoryDoor, sweep
from tests.crypto.keys import key, text

from sojourn import SessionManager
from sojourn.core.capability import DeleteMany, LoadMany, Scan
from sojourn.core.ids import handle_of
from sojourn.core.ops import Create, Delete, Flow, Load, Op, Touch, Update, Written
from sojourn.core.record import Record
from sojourn.crypto import at_rest
from sojourn.crypto.at_rest import SEALED, Vault, sealing
from sojourn.crypto.keyring import KeyRing
from sojourn.crypto.seal import to_text
from sojourn.crypto.xaes import Xaes256Gcm
from sojourn.drive import arun, as_async, run
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.memory import MemoryStore
from sojourn.testing import Browser, FakeClock, NumberedRandom, ScriptedStore, Site, StoreHarness
from sojourn.testing.fakes import START
from sojourn.testing.session_contract import SESSION_STORIES
from sojourn.testing.store_contract import STORIES, Story, a_key, a_record, name_of


def vault(*keys: Any, namespace: str = "shop", clock: Callable[[], float] = lambda: START) -> Vault:
    return Vault(KeyRing(keys or [key(1)]), namespace, clock, os.urandom)


def one(op: Any) -> Flow[Any]:
    """Return the flow of a single operation."""
    return (yield op)


def doing(store: MemoryStore, vault: Vault) -> Callable[[Any], Any]:
    """Return what performs an operation on *store* through *vault*."""
    return lambda op: run(sealing(one(op), vault), store)


TOMBSTONE = a_record(version=2, values={}, retired=True, successor=a_key(2), principal=None, cookie_age=None)


# -- the contracts hold ----------------------------------------------------------------------------------------


@contextmanager
def sealed_harness(*, loop: bool = False) -> Iterator[StoreHarness]:
    store, seal = MemoryStore(), vault()

    async def ado(op: Op) -> Any:
        return await arun(sealing(one(op), seal), as_async(store))

    async def ado_all(ops: Sequence[Op]) -> list[Any]:
        return list(await asyncio.gather(*map(ado, ops)))

    do = doing(store, seal)
    door, bury = MemoryDoor(store), partial(sweep, store)
    if loop:
        with asyncio.Runner() as runner:
            yield StoreHarness(lambda op: runner.run(ado(op)), lambda ops: runner.run(ado_all(ops)), door, bury)
    else:
        with ThreadPoolExecutor(8) as pool:
            yield StoreHarness(do, lambda ops: list(pool.map(do, ops)), door, bury)


HARNESSES = {"blocking": sealed_harness, "async": partial(sealed_harness, loop=True)}


@pytest.mark.parametrize("make_harness", HARNESSES.values(), ids=HARNESSES)
@pytest.mark.parametrize("story", STORIES, ids=name_of)
def test_a_sealed_store_keeps_every_promise(make_harness: Callable[[], Any], story: Story) -> None:
    with make_harness() as harness:
        story(harness)


@pytest.mark.parametrize("story", SESSION_STORIES, ids=name_of)
def test_sessions_on_a_sealed_store_keep_every_promise(story: Story) -> None:
    with sealed_harness() as harness:
        story(harness)


keys_ = st.text(max_size=8)
records = st.builds(
    Record,
    values=st.dictionaries(keys_, st.binary(max_size=50), max_size=5),
    created_at=st.integers(0, 2**42).map(lambda ms: ms / 1000),
    accessed_at=st.floats(0, 2e9),
    expires_at=st.floats(0, 2e9),
    version=st.integers(1, 2**63),
    principal=st.none() | st.text(max_size=20),
    cookie_age=st.none() | st.integers(0, 2**31),
    retired=st.booleans(),
    successor=st.none() | st.binary(max_size=32),
)


@given(key=st.binary(min_size=32, max_size=32), record=records)
def test_a_record_comes_back_as_it_was_field_by_field(key: bytes, record: Record) -> None:
    sealed = VAULT.seal(key, record)
    assert VAULT.open(key, sealed) == record
    assert sealed._replace(values={}, principal=None, cookie_age=None) == record._replace(
        values={}, principal=None, cookie_age=None
    )


VAULT = vault()


GOLDEN: dict[str, tuple[Record, str]] = {
    "record": (
        a_record(version=258, values={"cart": b"\x01two"}),
        "Aexg7DgAAQIDBAUGBwgJCgsMDQ4PEBESExQVFheKAr9oALe5Nq2cjpYYnlbrCrJkPlej2GT41WqNnUjS59DIGvoqCgLFfpwxIDSJBtKV",
    ),
    "tombstone": (TOMBSTONE, "Aexg7DgAAQIDBAUGBwgJCgsMDQ4PEBESExQVFheKAr9oALe5Nq2c6zf0wm_6RkKXBfW1BcBC-dOT3A"),
}


@pytest.mark.parametrize(("record", "golden"), GOLDEN.values(), ids=GOLDEN)
def test_what_was_sealed_by_an_earlier_version_opens(record: Record, golden: str) -> None:
    """What is written here is read for ever: another layout is another purpose."""
    fixed = Vault(KeyRing([key(1)]), "shop", lambda: START, lambda size: bytes(range(size)))
    sealed = fixed.seal(a_key(), record)
    assert to_text(sealed.values[SEALED]) == golden
    assert fixed.open(a_key(), sealed) == record


# -- what lies in storage --------------------------------------------------------------------------------------


def test_a_dump_holds_no_value_no_name_of_one_and_no_principal() -> None:
    store = MemoryStore()
    site = Site(doing(store, vault()))
    browser = Browser(site)
    for act in (lambda session: session.login("alice@example.org"), lambda session: session.remember(7_654_321)):
        browser.visit(act)
    browser.visit(lambda session: session.update({"card-number": "4111 1111 1111 1111", "cart": ["a blue lamp"]}))
    browser.visit(lambda session: session.rotate())
    browser.visit(lambda session: session.__setitem__("later", "the-second-value"))
    assert browser.sees() == {
        "card-number": "4111 1111 1111 1111",
        "cart": ["a blue lamp"],
        "later": "the-second-value",
    }
    dump = MemoryDoor(store).dump()
    for secret in (b"alice", b"card-number", b"4111", b"cart", b"blue lamp", b"later", b"the-second-value"):
        assert secret not in dump
    assert (7_654_321).to_bytes(4, "big") not in dump
    plain = MemoryStore()
    plain.create(a_key(), a_record(principal="alice@example.org"))
    assert b"alice" in MemoryDoor(plain).dump(), "the dump shows what is there"


def test_every_write_seals_anew() -> None:
    """One nonce for two records would give both away."""
    store = MemoryStore()
    do, blobs = doing(store, vault()), set()
    for number in range(200):
        do(Create(a_key(number), a_record()))
        do(Update(a_key(number), a_record(version=2), base=1))
        blobs.add(sealed_in(store, a_key(number))[5:29])
    assert len(blobs) == 200


def sealed_in(store: MemoryStore, key: bytes) -> bytes:
    record = store.load(key)
    assert record
    return record.values[SEALED]


def test_a_tombstone_is_sealed_like_any_record() -> None:
    store = MemoryStore()
    do = doing(store, vault())
    do(Create(a_key(), a_record()))
    do(Update(a_key(), TOMBSTONE, base=1))
    stored = store.load(a_key())
    assert stored
    assert (stored.retired, stored.successor, set(stored.values)) == (True, a_key(2), {SEALED})
    assert do(Load(a_key())) == TOMBSTONE


# -- what is not where or what it was --------------------------------------------------------------------------


FORGED: dict[str, Callable[[Record], tuple[bytes, Record]]] = {
    "under another key": lambda record: (a_key(2), record),
    "as a later version": lambda record: (a_key(), record._replace(version=record.version + 1)),
    "as an earlier version": lambda record: (a_key(), record._replace(version=record.version - 1)),
    "as a tombstone": lambda record: (a_key(), record._replace(retired=True)),
    "as a tombstone that leads elsewhere": lambda record: (
        a_key(),
        record._replace(retired=True, successor=a_key(3)),
    ),
    "with a successor": lambda record: (a_key(), record._replace(successor=a_key(3))),
    "with an empty successor": lambda record: (a_key(), record._replace(successor=b"")),
    "beside a plain value": lambda record: (a_key(), record._replace(values={**record.values, "admin": b"\xc3"})),
    "under another name": lambda record: (a_key(), record._replace(values={"sealed": record.values[SEALED]})),
    "cut off": lambda record: (a_key(), record._replace(values={SEALED: record.values[SEALED][:-1]})),
    "without anything": lambda record: (a_key(), record._replace(values={})),
    "with an empty value": lambda record: (a_key(), record._replace(values={SEALED: b""})),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_record_that_was_moved_or_dressed_up_does_not_open(
    forge: Callable[[Record], tuple[bytes, Record]], caplog: pytest.LogCaptureFixture
) -> None:
    seal = vault()
    stored_under, record = forge(seal.seal(a_key(), a_record(version=7)))
    assert seal.open(stored_under, record) is None
    assert [(entry.name, entry.levelname) for entry in caplog.records] == [("sojourn.store", "ERROR")]
    assert handle_of(stored_under) in caplog.text
    assert stored_under.hex() not in caplog.text


UNRETIRED: dict[str, Callable[[Record], Record]] = {
    "not retired": lambda record: record._replace(retired=False),
    "not retired, no successor": lambda record: record._replace(retired=False, successor=None),
    "no successor": lambda record: record._replace(successor=None),
    "another successor": lambda record: record._replace(successor=a_key(3)),
}


@pytest.mark.parametrize("forge", UNRETIRED.values(), ids=UNRETIRED)
def test_a_tombstone_cannot_be_brought_back_or_led_elsewhere(forge: Callable[[Record], Record]) -> None:
    seal = vault()
    sealed = seal.seal(a_key(), TOMBSTONE)
    assert seal.open(a_key(), sealed) == TOMBSTONE
    assert seal.open(a_key(), forge(sealed)) is None


def test_two_blobs_that_change_places_open_for_nobody() -> None:
    store = MemoryStore()
    do = doing(store, vault())
    for number, name in enumerate(("alice", "bob")):
        do(Create(a_key(number), a_record(principal=name)))
    alice, bob = (store.load(a_key(number)) for number in range(2))
    assert alice
    assert bob
    for number, record in enumerate((bob, alice)):  # as who can write to the storage may: with frames that fit
        store.delete(a_key(number))
        store.create(a_key(number), record)
    assert [do(Load(a_key(number))) for number in range(2)] == [None, None]


def test_an_absolute_lifetime_cannot_be_prolonged() -> None:
    """The moment of creation that counts is the sealed one, whatever stands outside."""
    seal = vault()
    sealed = seal.seal(a_key(), a_record())._replace(created_at=START + 1e6)
    opened = seal.open(a_key(), sealed)
    assert opened == a_record()


def test_an_older_blob_opens_where_its_version_is_put_back_with_it() -> None:
    """Documented, and no promise: who can write to the storage can turn a session back."""
    seal = vault()
    first, second = (seal.seal(a_key(), a_record(version=v, values={"n": bytes([v])})) for v in (1, 2))
    assert seal.open(a_key(), second._replace(values=first.values)) is None
    assert seal.open(a_key(), first) is not None


def test_another_namespace_or_ring_opens_nothing() -> None:
    sealed = vault(namespace="shop").seal(a_key(), a_record())
    for other in (vault(namespace="blog"), vault(namespace=""), vault(key(2)), vault(key(2), key(1, revoked=True))):
        assert other.open(a_key(), sealed) is None
    assert vault(key(2), key(1)).open(a_key(), sealed) == a_record()


def test_the_log_says_what_an_operator_can_mend(caplog: pytest.LogCaptureFixture) -> None:
    sealed = vault().seal(a_key(), a_record())
    vault(key(2)).open(a_key(), sealed)
    vault(key(2), key(1, revoked=True)).open(a_key(), sealed)
    vault(namespace="blog").open(a_key(), sealed)
    vault().open(a_key(), a_record())
    said = [entry.getMessage().partition("in place: ")[2] for entry in caplog.records]
    assert said == [
        "it is sealed with a key that is not in the ring",
        "it is sealed with a key that is revoked",
        "it is damaged, or was sealed for another place",
        "it is not sealed, or in another format",
    ]


# -- nothing but sealed records --------------------------------------------------------------------------------

PLAIN: dict[str, dict[str, bytes]] = {
    "a record from before": {"user": b"\xa5alice"},
    "several values": {"user": b"\xa5alice", "cart": b"\x90"},
    "MessagePack under the name of sealed ones": {SEALED: msgspec.msgpack.encode([0, "alice", None, {}])},
    "JSON under it": {SEALED: b'[0, "alice", null, {}]'},
    "a version byte before it": {SEALED: b"\1" + msgspec.msgpack.encode([0, "alice", None, {"admin": b"\xc3"}]) * 9},
    "no values": {},
}


@pytest.mark.parametrize("values", PLAIN.values(), ids=PLAIN)
def test_plain_records_are_never_accepted_and_never_decoded(
    values: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(at_rest, "_decode", decoded.append)
    store = MemoryStore()
    store.create(a_key(), a_record(values=values, principal="alice"))
    before = dict(store.frames)
    assert doing(store, vault())(Load(a_key())) is None
    assert decoded == []
    assert store.frames == before


def test_a_visitor_from_before_the_keys_is_anonymous_and_may_log_in_again() -> None:
    store = MemoryStore()
    site = Site(lambda op: run(one(op), store))
    browser = Browser(site)
    browser.visit(lambda session: session.login("alice"))
    site.do = doing(store, vault())
    assert browser.begin().principal is None
    browser.visit(lambda session: session.login("alice"))
    assert browser.begin().principal == "alice"


def test_what_a_later_version_sealed_is_nobody_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    seal = vault()
    later = seal._sealer.seal(b"\xc1 another layout", at_rest._place(a_key(), a_record()), bytes(24), START)
    assert seal.open(a_key(), a_record(values={SEALED: later})) is None
    assert len(caplog.records) == 1


# -- the flow --------------------------------------------------------------------------------------------------


def test_other_operations_and_their_answers_pass_as_they_are() -> None:
    ops: list[Any] = [Touch(a_key(), START, START + 60, 1), Delete(a_key(), 1), DeleteMany([a_key()]), Scan()]
    for op in ops:
        flow = sealing(one(op), vault())
        assert next(flow) is op
        answer = object()
        with pytest.raises(StopIteration) as end:
            flow.send(answer)
        assert end.value.value is answer


@pytest.mark.parametrize("answer", Written)
def test_a_write_s_answer_passes_as_it_is(answer: Written) -> None:
    store = ScriptedStore((Create, answer), (Update, answer))
    for op in (Create(a_key(), a_record()), Update(a_key(), a_record(version=2), 1)):
        assert run(sealing(one(op), vault()), store) is answer
    for asked in store.asked:
        assert isinstance(asked, (Create, Update))
        assert set(asked.record.values) == {SEALED}
        assert (asked.record.principal, asked.record.cookie_age) == (None, None)
        assert asked.key == a_key()


def test_a_batch_is_opened_one_by_one_and_in_its_order() -> None:
    seal = vault()
    first, second = (seal.seal(a_key(n), a_record(principal=str(n))) for n in (1, 2))
    flow = sealing(one(LoadMany([a_key(1), a_key(2), a_key(3), a_key(4)])), seal)
    assert next(flow) == LoadMany([a_key(1), a_key(2), a_key(3), a_key(4)])
    with pytest.raises(StopIteration) as end:
        flow.send([first, None, second, a_record()])
    assert end.value.value == [a_record(principal="1"), None, None, None]


def test_a_batch_that_is_too_short_is_an_error_and_no_mix_up() -> None:
    flow = sealing(one(LoadMany([a_key(1), a_key(2)])), vault())
    next(flow)
    with pytest.raises(ValueError, match="shorter"):
        flow.send([None])


def test_an_outage_reaches_the_flow_which_may_go_on() -> None:
    def patient() -> Flow[str]:
        try:
            yield Load(a_key(1))
        except StoreUnavailable:
            found = yield Load(a_key(2))
            return str(found.principal)
        return "no outage"

    seal = vault()
    there = seal.seal(a_key(2), a_record())
    store = ScriptedStore((Load, StoreUnavailable("down")), (Load, there))
    assert run(sealing(patient(), seal), store) == "alice"
    with pytest.raises(StoreUnavailable):
        run(sealing(one(Load(a_key())), seal), ScriptedStore((Load, StoreUnavailable("down"))))


def test_a_flow_that_is_given_up_ends_and_one_without_operations_answers() -> None:
    ended = []

    def flow() -> Flow[None]:
        try:
            yield Load(a_key())
        finally:
            ended.append(True)

    inner = flow()
    outer = sealing(inner, vault())
    next(outer)
    outer.close()
    assert ended == [True]

    def idle() -> Flow[int]:
        return 7
        yield

    assert run(sealing(idle(), vault()), MemoryStore()) == 7


# -- keys and the life of a session ----------------------------------------------------------------------------


def test_a_vault_without_an_active_key_is_refused_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError, match="no key is active"):
        vault(key(1, activate_at=START + 1))


def test_randomness_that_comes_short_seals_nothing() -> None:
    short = Vault(KeyRing([key(1)]), "", lambda: START, lambda size: bytes(size - 1))
    with pytest.raises(ValueError, match="24 bytes"):
        short.seal(a_key(), a_record())


def test_randomness_is_drawn_once_a_write() -> None:
    random = NumberedRandom()
    seal = Vault(KeyRing([key(1)]), "", lambda: START, random)
    nonces = [seal.seal(a_key(), a_record()).values[SEALED][5:29] for _ in range(3)]
    assert [int.from_bytes(nonce, "big") for nonce in nonces] == [1, 2, 3]


def test_a_session_is_sealed_with_the_new_key_when_it_is_next_written() -> None:
    store, clock = MemoryStore(), FakeClock()
    do = doing(store, vault(key(1), key(2, activate_at=START + 60), clock=clock))
    do(Create(a_key(), a_record()))
    clock.advance(minutes=1)
    assert do(Load(a_key())) == a_record()
    assert sealed_in(store, a_key())[1:5] == key(1).id
    do(Update(a_key(), a_record(version=2), base=1))
    assert sealed_in(store, a_key())[1:5] == key(2).id


def test_one_decryption_a_load_however_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    decrypt = Xaes256Gcm.decrypt

    def spy(*args: Any) -> bytes | None:
        tried.append(args)
        return decrypt(*args)

    monkeypatch.setattr(Xaes256Gcm, "decrypt", spy)
    store = MemoryStore()
    do = doing(store, vault(*(key(n) for n in range(1, 6))))
    do(Create(a_key(), a_record()))
    do(Load(a_key()))
    assert len(tried) == 1


def test_a_rolling_deployment_of_a_key_logs_nobody_out() -> None:
    """Three nodes over one store get a key one after the other, while visitors come to each of them in turn."""
    store, clock = MemoryStore(), FakeClock()
    old = [key(1)]
    new = [key(1), key(2, activate_at=START + 600)]
    nodes = [vault(*old, clock=clock) for _ in range(3)]
    site = Site(doing(store, nodes[0]))
    site.clock = clock
    browsers = [Browser(site) for _ in range(10)]
    for number, browser in enumerate(browsers):
        browser.visit(lambda session, number=number: session.login(f"user {number}"))
    for step in range(60):
        clock.advance(seconds=20)
        if step in (5, 12, 20):
            nodes[(5, 12, 20).index(step)] = vault(*new, clock=clock)
        for number, browser in enumerate(browsers):
            site.do = doing(store, nodes[(step + number) % 3])
            browser.visit(lambda session, step=step: session.__setitem__("step", step))
            assert browser.begin().principal == f"user {number}"
    assert {sealed_in(store, browser.id.private)[1:5] for browser in browsers if browser.id} == {key(2).id}


def test_nothing_shows_keys_or_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seal = vault()
    sealed = seal.seal(a_key(), a_record(values={"card": b"4111"}, principal="alice"))
    seal.open(a_key(2), sealed)
    shown = repr(seal) + repr(sealed) + caplog.text
    assert "alice" not in shown
    assert "4111" not in shown


def test_a_manager_with_keys_finds_and_revokes_sessions_whose_store_knows_no_principal() -> None:
    store = MemoryStore()
    manager = SessionManager(store, keys=[text(1)])
    ids = []
    for number, name in enumerate(("alice", "bob", "alice")):
        session = manager.begin(list, ())
        session.login(name)
        session["n"] = number
        ids.append(manager.commit(session).id)
    assert sorted(info.get("n") for info in manager.of("alice")) == [0, 2]
    assert b"alice" not in MemoryDoor(store).dump()
    assert manager.revoke("alice") == 2
    sessions = [manager.begin(lambda id: [f"__Host-sid={id.public}"], id) for id in ids]
    assert [session.principal for session in sessions] == [None, "bob", None]
