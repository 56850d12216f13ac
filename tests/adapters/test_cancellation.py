"""A request that is cancelled at any await, as when a browser hangs up: no half of it is stored, no lock stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.adapters.servers import AsgiServer, Exchange, http_scope

from sojourn.adapters.asgi import SessionMiddleware
from sojourn.core.outcome import Happened
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing.adapter_harness import AdapterHarness, AwaitedStore, Request

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
VERBS = ("load", "create", "update", "touch", "delete", "acquire", "release")


class HangingStore(AwaitedStore):
    """Hangs in one verb, before or after it is performed, until the task is cancelled."""

    def __init__(self, store: MemoryStore, verb: str = "", *, after: bool = False) -> None:
        super().__init__(store)
        self.reached = asyncio.Event()
        if verb:
            self.hang(verb, after)

    def hang(self, verb: str, after: bool) -> None:
        perform = getattr(self, verb)

        async def hanging(*arguments: Any) -> Any:
            setattr(self, verb, perform)  # once: whoever cleans up is answered
            if after:
                await perform(*arguments)
            self.reached.set()
            await asyncio.sleep(3600)

        setattr(self, verb, hanging)


async def put(session: Any) -> None:
    session["half"] = "done"


async def alone(session: Any) -> None:
    async with session.exclusive():
        session["half"] = "done"


async def fetched(session: Any) -> None:
    await session.fetch()
    session["half"] = "done"


async def login(session: Any) -> None:
    session.login("alice")


async def logout(session: Any) -> None:
    session.logout()


async def begun(store: MemoryStore) -> str:
    """Store a session and return the cookie that opens it."""
    manager = SessionManager(store, insecure_dev=True)
    session = manager.begin(lambda _: (), None)
    session["cart"] = ["lamp"]
    outcome = manager.commit(session)
    assert outcome.id is not None
    return f"sid={outcome.id.public}"


async def cancelled_in(act: Any, verb: str, after: bool, **settings: Any) -> tuple[MemoryStore, str, list[Any]]:
    """Serve a request that hangs in *verb*, cancel it there, and return the store, the cookie and the events."""
    store, events = MemoryStore(), []
    cookie = await begun(store)
    hanging = HangingStore(store, verb, after=after)
    manager = SessionManager(hanging, insecure_dev=True, on_event=events.append)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await act(scope["session"])
        await send(START)
        await send({"type": "http.response.body"})

    exchange = Exchange()
    app: Any = SessionMiddleware(application, manager, **settings)
    request = http_scope(Request("GET", "/", [("cookie", cookie)]))
    task = asyncio.ensure_future(app(request, exchange.receive, exchange.send))
    await asyncio.wait_for(hanging.reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.sent == []
    return store, cookie, events


def seen_in(store: MemoryStore, cookie: str) -> dict[str, Any]:
    manager = SessionManager(store, insecure_dev=True)
    return dict(manager.begin(lambda cookie: (cookie,), cookie))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("act", "verb", "reported"),
    [
        (put, "load", []),
        (fetched, "load", []),
        (put, "update", ["half"]),
        (alone, "acquire", []),
        (alone, "update", ["half"]),
        (login, "create", []),
        (login, "update", []),
        (logout, "delete", []),
    ],
)
def test_a_request_that_is_cancelled_at_an_await_ends_at_once_and_half_of_nothing_is_stored(
    act: Any, verb: str, reported: list[str], after: bool
) -> None:
    settings = {"exclude": ["*"]} if act is fetched else {}
    store, cookie, events = asyncio.run(cancelled_in(act, verb, after, **settings))
    performed = after and verb in ("update", "delete")
    if act in (put, alone, fetched):
        assert seen_in(store, cookie) == {"cart": ["lamp"], **({"half": "done"} if performed else {})}
    elif not performed:
        assert seen_in(store, cookie) == {"cart": ["lamp"]}
    assert store.locks == {}, "the lock would keep the visitor waiting"
    assert [event.keys for event in events if event.kind is Happened.UNSAVED] == ([tuple(reported)] if reported else [])


def test_a_request_that_is_cancelled_while_it_gives_its_lock_back_still_does() -> None:
    async def run() -> None:
        store, events = MemoryStore(), []
        cookie = await begun(store)
        slow = HangingStore(store)
        gone = asyncio.Event()

        async def release(key: bytes, owner: bytes) -> bool:
            slow.reached.set()
            await gone.wait()
            return store.release(key, owner)

        slow.release = release  # type: ignore[method-assign]
        manager = SessionManager(slow, insecure_dev=True, on_event=events.append)

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await alone(scope["session"])

        app: Any = SessionMiddleware(application, manager)
        exchange = Exchange()
        request = http_scope(Request("GET", "/", [("cookie", cookie)]))
        task = asyncio.ensure_future(app(request, exchange.receive, exchange.send))
        await asyncio.wait_for(slow.reached.wait(), 10)
        task.cancel()
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.locks == {}
        assert seen_in(store, cookie) == {"cart": ["lamp"], "half": "done"}

    asyncio.run(run())


def test_who_is_cancelled_while_waiting_for_a_block_takes_no_lock_from_its_holder() -> None:
    async def run() -> None:
        store = MemoryStore()
        cookie = await begun(store)
        [key] = store.frames
        now = SessionManager(store, insecure_dev=True).terms().now
        assert store.acquire(key, b"holder", now, now + 60)
        tried = asyncio.Event()

        class Tried(AwaitedStore):
            async def acquire(self, *arguments: Any) -> bool:
                taken = await super().acquire(*arguments)
                tried.set()
                return taken

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await alone(scope["session"])

        app: Any = SessionMiddleware(application, SessionManager(Tried(store), insecure_dev=True))
        exchange = Exchange()
        request = http_scope(Request("GET", "/", [("cookie", cookie)]))
        task = asyncio.ensure_future(app(request, exchange.receive, exchange.send))
        await asyncio.wait_for(tried.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.release(key, b"holder")

    asyncio.run(run())


def test_a_look_that_was_refused_on_an_excluded_path_is_no_second_error_at_the_end() -> None:
    """The middleware's own clean-up asks whether the session was looked at, and does not look itself."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("the handler's own")

    def mount(app: AdapterHarness) -> AsgiServer:
        return AsgiServer(SessionMiddleware(application, app.manager, exclude=["*"]))

    with AdapterHarness(mount, awaited=True) as app:
        assert app.holder("x" * 43).visit("/").status == 500
        assert "LookupError: the handler's own" in app.log.text
        assert "SessionNotFetched" not in app.log.text
