"""What a manager makes of a store's capabilities: principals, locks, both colours, and what it says when one lacks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from sojourn import (
    ConfigurationError,
    Event,
    Happened,
    Indexed,
    Lockable,
    Policy,
    Purgeable,
    Scannable,
    Session,
    SessionBusy,
    SessionManager,
    SessionNotFetched,
    StoreUnavailable,
    ValueNotStorable,
)
from sojourn.core.outcome import Action
from sojourn.drive import StorePair, as_async
from sojourn.store.memory import MemoryStore
from sojourn.testing import FakeClock, NumberedRandom


class FiveVerbs:
    """A store that can do nothing else."""

    waits = False

    def __init__(self) -> None:
        store = MemoryStore()
        self.load, self.create, self.update = store.load, store.create, store.update
        self.touch, self.delete = store.touch, store.delete


class Failing(MemoryStore):
    """A store of which some verbs cannot answer, while they are named in *broken*."""

    broken: tuple[str, ...] = ()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return fail if name in super().__getattribute__("broken") else found


def fail(*_: Any) -> Any:
    raise StoreUnavailable("it does not answer") from OSError("nobody there")


def manager(store: Any = "memory:", **settings: Any) -> SessionManager:
    return SessionManager(store, clock=FakeClock(), random=NumberedRandom(), **settings)


def visit(to: SessionManager, handler: Any = lambda session: None, cookie: str = "") -> str:
    """Serve one request, blocking; return the cookie that the browser has afterwards."""
    session = to.begin(as_fields, cookie)
    handler(session)
    outcome = to.commit(session)
    if outcome.action is Action.ISSUE:
        assert outcome.id is not None
        return f"__Host-sid={outcome.id.public}"
    return "" if outcome.action is Action.EXPIRE else cookie


def as_fields(cookie: str) -> list[str]:
    return [cookie] if cookie else []


def login(to: SessionManager, principal: str, **values: Any) -> str:
    def handler(session: Session) -> None:
        session.update(values)
        session.login(principal)

    return visit(to, handler)


def who(to: SessionManager, cookie: str) -> str | None:
    return to.begin(as_fields, cookie).principal


# -- declared by type, checked when built ----------------------------------------------------------------------


@pytest.mark.parametrize("capability", [Indexed, Scannable, Purgeable, Lockable])
def test_a_store_that_lacks_what_is_needed_is_refused_when_the_manager_is_built(capability: type) -> None:
    manager(needs=[capability])
    with pytest.raises(ConfigurationError, match=f"FiveVerbs is not {capability.__name__}"):
        manager(FiveVerbs(), needs=[capability])


@pytest.mark.parametrize("needs", [[int], [Policy], ["Indexed"], Indexed, 5])
def test_what_is_no_capability_cannot_be_needed(needs: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs takes capabilities"):
        manager(needs=needs)


def test_a_bound_on_sessions_needs_an_index() -> None:
    with pytest.raises(ConfigurationError, match="FiveVerbs is not Indexed"):
        manager(FiveVerbs(), policy=Policy(max_sessions=3))
    with pytest.raises(ConfigurationError, match="max_sessions is 0"):
        Policy(max_sessions=0)


def test_asking_a_store_for_what_it_cannot_do_says_so() -> None:
    subject = manager(FiveVerbs())
    cookie = login(subject, "alice")
    assert who(subject, cookie) == "alice"
    for asked in (lambda: subject.of("alice"), lambda: subject.revoke("alice"), subject.revoke_all):
        with pytest.raises(ConfigurationError, match="FiveVerbs is not"):
            asked()
    with pytest.raises(ConfigurationError, match="FiveVerbs is not Lockable"):
        visit(subject, lambda session: session.exclusive(), cookie)


def test_one_setting_serves_both_colours() -> None:
    made: list[str] = []
    store = MemoryStore()

    def make(colour: str, half: Any) -> Any:
        made.append(colour)
        return half

    subject = manager(StorePair(lambda: make("blocking", store), lambda: make("loop", as_async(store))))
    assert subject.waits
    cookie = login(subject, "alice", n=1)

    async def on_a_loop() -> tuple[Any, list[str]]:
        session = await subject.abegin(as_fields, cookie)
        session["n"] += 1
        await subject.acommit(session)
        return session["n"], [one.handle for one in await subject.aof("alice")]

    n, handles = asyncio.run(on_a_loop())
    assert n == 2
    assert handles == [one.handle for one in subject.of("alice")]
    assert made == ["blocking", "loop"]


# -- principals ------------------------------------------------------------------------------------------------


def test_a_page_of_devices_lists_them_and_ends_one() -> None:
    subject = manager()
    phone, laptop = login(subject, "alice", device="phone"), login(subject, "alice", device="laptop")
    listed = subject.of("alice")
    assert sorted(one.get("device") for one in listed) == ["laptop", "phone"]
    assert listed[0].get("nothing", "-") == "-"
    assert all(one.created_at <= one.accessed_at < one.expires_at for one in listed)
    assert phone.partition("=")[2] not in repr(listed)
    [gone] = [one.handle for one in listed if one.get("device") == "phone"]
    assert subject.revoke("alice", only=gone) == 1
    assert (who(subject, phone), who(subject, laptop)) == (None, "alice")


def test_the_callers_own_session_can_be_kept() -> None:
    events: list[Event] = []
    subject = manager(on_event=events.append)
    phone, laptop = login(subject, "alice"), login(subject, "alice")
    current = subject.begin(as_fields, laptop)
    assert subject.revoke("alice", keep=current) == 1
    assert (who(subject, phone), who(subject, laptop)) == (None, "alice")
    assert events[-1].kind is Happened.REVOKED
    assert subject.revoke("alice", keep=current) == 0


def test_everything_can_be_ended_at_once_but_one() -> None:
    subject = manager()
    mine, others = login(subject, "root"), [login(subject, f"user {n}") for n in range(20)]
    others.append(visit(subject, lambda session: session.update(cart=["lamp"])))
    assert subject.revoke_all(keep=subject.begin(as_fields, mine)) == 21
    assert [who(subject, cookie) for cookie in others] == [None] * 21
    assert who(subject, mine) == "root"


def test_principals_of_two_namespaces_are_unrelated() -> None:
    store = MemoryStore()
    shop, blog = manager(store, namespace="shop"), SessionManager(store, namespace="blog", clock=FakeClock())
    at_shop, at_blog = login(shop, "alice"), login(blog, "alice")
    assert shop.revoke("alice") == 1
    assert (who(shop, at_shop), who(blog, at_blog)) == (None, "alice")


def test_a_listener_that_fails_undoes_no_login_no_revocation_and_no_logout(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("the listener is broken")

    subject = manager(on_event=fail)
    cookie, other = login(subject, "alice"), login(subject, "alice")
    assert who(subject, cookie) == "alice"
    assert visit(subject, Session.logout, other) == ""
    assert (who(subject, other), who(subject, cookie)) == (None, "alice")
    assert subject.revoke("alice") == 1
    assert who(subject, cookie) is None
    failed = [record.getMessage() for record in caplog.records if record.exc_info]
    assert len(failed) == 4
    assert failed[-1].startswith("on_event failed at revoked")


def test_the_async_colour_finds_and_ends_the_same() -> None:
    subject = manager()
    cookies = [login(subject, "alice") for _ in range(3)]

    async def on_a_loop() -> tuple[int, int, int]:
        current = await subject.abegin(as_fields, cookies[0])
        return (
            len(await subject.aof("alice")),
            await subject.arevoke("alice", keep=current),
            await subject.arevoke_all(),
        )

    assert asyncio.run(on_a_loop()) == (3, 2, 1)
    assert [who(subject, cookie) for cookie in cookies] == [None] * 3


@pytest.mark.parametrize("broken", ["delist", "find"])
def test_an_index_that_cannot_answer_spoils_no_login_renewal_or_logout(broken: str) -> None:
    store = Failing()
    clock = FakeClock()
    subject = SessionManager(store, policy=Policy(max_sessions=1), clock=clock)
    login(subject, "alice")
    clock.advance(1)
    store.broken = (broken,)
    cookie = login(subject, "alice")
    renewed = visit(subject, Session.rotate, cookie)
    assert renewed != cookie
    assert who(subject, renewed) == "alice"
    assert visit(subject, Session.logout, renewed) == ""
    store.broken = ()
    assert who(subject, renewed) is None


@pytest.mark.parametrize("principal", [42, "", None, "x" * 256, "\ud800"])
def test_what_cannot_log_in_cannot_be_asked_for(principal: Any) -> None:
    subject = manager()
    asked = [subject.of, subject.revoke, lambda who: visit(subject, lambda session: session.login(who))]
    for ask in asked:
        with pytest.raises(ValueNotStorable):
            ask(principal)


def test_who_goes_beyond_the_bound_is_in_the_events() -> None:
    events: list[Event] = []
    clock = FakeClock()
    subject = SessionManager("memory:", policy=Policy(max_sessions=1), clock=clock, on_event=events.append)
    login(subject, "alice")
    clock.advance(1)
    login(subject, "alice")
    assert [event.kind for event in events] == [Happened.LOGGED_IN, Happened.LOGGED_IN, Happened.REVOKED]


def test_a_login_that_cannot_be_listed_is_none() -> None:
    store = Failing()
    subject = manager(store)
    store.broken = ("enlist",)
    with pytest.raises(StoreUnavailable):
        login(subject, "alice")
    assert not store.frames


# -- an outage -------------------------------------------------------------------------------------------------


def changes(session: Session) -> list[Any]:
    return [
        lambda: session.update(n=2),
        lambda: session.login("mallory"),
        lambda: session.logout(),
        lambda: session.destroy(),
        lambda: session.rotate(),
        lambda: session.remember(3600),
        lambda: session.clear(),
        lambda: session.pop("user", None),
        lambda: session.setdefault("n", 1),
        lambda: session.exclusive(),
    ]


@pytest.mark.parametrize("loop", [False, True])
def test_by_policy_an_outage_serves_an_anonymous_visitor_who_can_change_nothing(loop: bool) -> None:
    store, events = Failing(), list[Event]()
    subject = manager(as_async(store) if loop else store, outage="anonymous", on_event=events.append)
    cookie = login(manager(store), "alice", n=1)
    before = dict(store.frames)
    store.broken = ("load",)

    async def on_a_loop() -> tuple[Session, Any]:
        session = await subject.abegin(as_fields, cookie)
        looks(session)
        return session, await subject.acommit(session)

    def looks(session: Session) -> None:
        assert (dict(session), session.principal, session.is_new, session.available) == ({}, None, True, False)
        for change in changes(session):
            with pytest.raises(StoreUnavailable):
                change()

    if loop:
        _, outcome = asyncio.run(on_a_loop())
    else:
        session = subject.begin(as_fields, cookie)
        looks(session)
        outcome = subject.commit(session)
    assert outcome.action is Action.KEEP
    assert [event.kind for event in events] == [Happened.OUTAGE]
    store.broken = ()
    assert store.frames == before
    assert who(manager(store), cookie) == "alice"


def test_by_default_an_outage_is_none_of_the_visitors_doing() -> None:
    store = Failing()
    subject = manager(store)
    cookie = login(subject, "alice")
    store.broken = ("load",)
    session = subject.begin(as_fields, cookie)
    with pytest.raises(StoreUnavailable):
        session.get("n")
    store.broken = ()
    assert who(subject, cookie) == "alice"


def test_a_fetch_that_failed_can_be_tried_again() -> None:
    store = Failing()
    cookie = login(manager(store), "alice", n=1)
    subject = manager(as_async(store))

    async def on_a_loop() -> Any:
        session = subject.begin_unfetched(as_fields, cookie)
        store.broken = ("load",)
        for ask in (session.fetch, session.fetch):
            with pytest.raises(StoreUnavailable):
                await ask()
            with pytest.raises(StoreUnavailable):
                session.get("n")
        store.broken = ()
        await session.fetch()
        return session["n"]

    assert asyncio.run(on_a_loop()) == 1


def test_an_unknown_outage_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="outage is 'ignore'"):
        manager(outage="ignore")


# -- fetched on use --------------------------------------------------------------------------------------------


def test_a_session_that_opted_out_is_fetched_when_asked_for() -> None:
    store = MemoryStore()
    subject = manager(as_async(store))
    cookie = login(manager(store), "alice", n=1)

    async def on_a_loop() -> None:
        session = subject.begin_unfetched(as_fields, cookie)
        with pytest.raises(SessionNotFetched, match=r"await session\.fetch\(\)"):
            session.get("n")
        assert not session.looked
        await session.fetch()
        assert session["n"] == 1
        await session.fetch()
        session["n"] += 1
        await subject.acommit(session)
        untouched = subject.begin_unfetched(as_fields, cookie)
        assert (await subject.acommit(untouched)).action is Action.KEEP

    asyncio.run(on_a_loop())
    assert manager(store).begin(as_fields, cookie)["n"] == 2


def test_fetching_a_session_from_a_store_that_never_waits_changes_nothing() -> None:
    subject = manager()

    async def on_a_loop() -> None:
        session = subject.begin(as_fields, "")
        await session.fetch()
        assert not session.looked

    asyncio.run(on_a_loop())


# -- one request at a time -------------------------------------------------------------------------------------


def test_threads_in_exclusive_blocks_wait_for_each_other(caplog: pytest.LogCaptureFixture) -> None:
    subject = SessionManager("memory:")
    cookie = visit(subject, lambda session: session.update(n=0))

    def work() -> None:
        for _ in range(10):
            session = subject.begin(as_fields, cookie)
            with session.exclusive(wait=30):
                session["n"] += 1
            subject.commit(session)

    with caplog.at_level(logging.WARNING, "sojourn"):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert subject.begin(as_fields, cookie)["n"] == 40
    assert caplog.records == []


def test_tasks_in_exclusive_blocks_wait_for_each_other(caplog: pytest.LogCaptureFixture) -> None:
    subject = SessionManager("memory:")
    cookie = visit(subject, lambda session: session.update(n=0))

    async def work() -> None:
        session = await subject.abegin(as_fields, cookie)
        async with session.exclusive(wait=30):
            n = session["n"]
            await asyncio.sleep(0)
            session["n"] = n + 1
        await subject.acommit(session)

    async def on_a_loop() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    with caplog.at_level(logging.WARNING, "sojourn"):
        asyncio.run(on_a_loop())
    assert subject.begin(as_fields, cookie)["n"] == 20
    assert caplog.records == []


def test_a_session_that_nobody_stored_needs_no_lock() -> None:
    store = Failing()
    store.broken = ("acquire",)
    subject = manager(store)

    def handler(session: Session) -> None:
        with session.exclusive(wait=0):
            session["n"] = 1

    assert subject.begin(as_fields, visit(subject, handler))["n"] == 1


def test_a_cancelled_holder_gives_the_lock_back() -> None:
    subject = SessionManager("memory:")
    cookie = visit(subject, lambda session: session.update(n=0))

    async def hold(inside: asyncio.Event) -> None:
        session = await subject.abegin(as_fields, cookie)
        async with session.exclusive():
            session["n"] = 100
            inside.set()
            await asyncio.Event().wait()

    async def on_a_loop() -> None:
        inside = asyncio.Event()
        holder = asyncio.create_task(hold(inside))
        await inside.wait()
        waiter = await subject.abegin(as_fields, cookie)
        with pytest.raises(SessionBusy):
            async with waiter.exclusive(wait=0):
                pass
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
        async with waiter.exclusive(wait=0):
            waiter["n"] += 1

    asyncio.run(on_a_loop())
    assert subject.begin(as_fields, cookie)["n"] == 1


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"wait": -1}, "wait is -1"),
        ({"wait": float("nan")}, "wait is nan"),
        ({"wait": float("inf")}, "wait is inf"),
        ({"lease": 0}, "lease is 0"),
        ({"lease": float("nan")}, "lease is nan"),
        ({"lease": 86400}, "lease is 86400"),
    ],
)
def test_a_wait_or_a_lease_without_a_bound_is_refused(settings: dict[str, float], names: str) -> None:
    subject = manager()
    with pytest.raises(ConfigurationError, match=names):
        visit(subject, lambda session: session.exclusive(**settings))


def test_a_wait_is_bounded_also_where_the_store_takes_its_time() -> None:
    """Only the last attempt may run beyond it, and that has the store's own deadline."""

    class Slow(MemoryStore):
        def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
            time.sleep(0.05)
            return False

    subject = manager(Slow())
    cookie = visit(subject, lambda session: session.update(n=1))
    session = subject.begin(as_fields, cookie)
    start = time.process_time(), time.monotonic()
    with pytest.raises(SessionBusy), session.exclusive(wait=0.3):
        pass
    attempts_alone = 100 * 0.05  # what a wait took that counts its pauses only
    assert 0.3 <= time.monotonic() - start[1] < attempts_alone / 2


# -- encryption at rest ----------------------------------------------------------------------------------------

KEY = "pPdX2zIbT0cN8VZ4yD1Wv9qkRj7mLs3EhAuGf6CoKxE"


def test_with_keys_no_store_sees_a_value_or_a_name() -> None:
    store = Failing()
    subject = SessionManager(store, keys=[KEY])
    cookie = login(subject, "alice@example.org", secret="a-very-private-value")
    stored = b"".join(store.frames.values())
    assert b"alice" not in stored
    assert b"private" not in stored
    assert subject.begin(as_fields, cookie)["secret"] == "a-very-private-value"
    assert [one.get("secret") for one in subject.of("alice@example.org")] == ["a-very-private-value"]
    renewed = visit(subject, Session.rotate, cookie)
    assert who(subject, renewed) == "alice@example.org"
    store.broken = ("delist",)
    assert visit(subject, Session.logout, renewed) == ""
    assert who(SessionManager(store), renewed) is None
