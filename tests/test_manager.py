"""SessionManager: settings are checked when it is built, and what it says about a response is right."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from sojourn import Codec, ConfigurationError, Cookie, Event, Happened, Policy, SessionManager
from sojourn.core.ids import SessionId
from sojourn.core.ops import Load, Written
from sojourn.core.outcome import KEEP, Action, Outcome
from sojourn.core.record import Record
from sojourn.drive import as_async
from sojourn.manager import configured
from sojourn.store.memory import MemoryStore
from sojourn.testing import FakeClock, NumberedRandom, ScriptedStore

ID = SessionId.from_random(b"\x07" * 32)
ISSUE = Outcome(Action.ISSUE, ID)


def manager(store: Any = "memory:", **settings: Any) -> SessionManager:
    return SessionManager(store, clock=FakeClock(), random=NumberedRandom(), **settings)


def respond(to: SessionManager, outcome: Outcome, *headers: tuple[str, str], scheme: str = "https") -> dict[str, str]:
    answer = to.respond(outcome, list(headers), scheme=scheme, host="shop.example:8000")
    assert len({name.lower() for name, _ in answer}) == len(answer), "a field appears twice"
    return {name.lower(): value for name, value in answer}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"codec": Codec(), "types": [Happened]}, "types and codec"),
        ({"cookie": Cookie(), "insecure_dev": True}, "cookie and insecure_dev"),
        ({"store": "redus://cache"}, "redus:.*known schemes: local:, memcached\\+unix:"),
        ({"store": "nonsense"}, "no store URL"),
        ({"store": "memory:8"}, "takes no settings"),
        ({"store": None}, "store takes a store URL or a store, not NoneType"),
        ({"policy": 30}, "policy takes a Policy, not int"),
        ({"cookie": "sid"}, "cookie takes a Cookie, not str"),
        ({"namespace": None}, "namespace takes a str, not NoneType"),
        ({"on_event": 5}, "on_event takes a function, not int"),
        ({"resolvers": {"visits": 5}}, "visits takes a function, not int"),
    ],
)
def test_settings_that_contradict_are_refused_when_built(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigurationError, match=names):
        manager(**{"store": "memory:", **settings})


def test_an_adapter_takes_a_manager_or_its_settings_but_not_both() -> None:
    given = manager()
    assert configured(given, {}) is given
    assert isinstance(configured(None, {"store": "memory:"}).store, MemoryStore)
    with pytest.raises(ConfigurationError, match="policy"):
        configured(given, {"policy": Policy()})
    with pytest.raises(ConfigurationError, match="say where sessions live"):
        configured(None, {})


def test_a_store_of_the_wrong_colour_is_refused_by_name() -> None:
    class Blocking(MemoryStore):
        waits = True

    with pytest.raises(ConfigurationError, match=r"Blocking blocks .* use its async store"):
        manager(Blocking()).loop_store()
    with pytest.raises(ConfigurationError, match="needs a blocking store"):
        manager(as_async(MemoryStore())).blocking_store()


def test_both_colours_commit_to_the_same_outcome() -> None:
    async def on_a_loop() -> list[Outcome]:
        subject = manager(as_async(MemoryStore()))
        first = await subject.abegin(list, ())
        first["n"] = 1
        issued = await subject.acommit(first)
        assert issued.id is not None
        second = await subject.abegin(cookies, f"__Host-sid={issued.id.public}")
        second["n"] += 1
        kept = await subject.acommit(second)
        second.reopen()
        second["n"] += 1
        await second.asave()
        third = await subject.abegin(cookies, f"__Host-sid={issued.id.public}")
        assert third["n"] == 3
        return [issued, kept]

    def blocking() -> list[Outcome]:
        subject = manager()
        first = subject.begin(list, ())
        first["n"] = 1
        issued = subject.commit(first)
        second = subject.begin(cookies, f"__Host-sid={issued.id.public}")  # type: ignore[union-attr]
        second["n"] += 1
        kept = subject.commit(second)
        second.reopen()
        second["n"] += 1
        second.save()
        return [issued, kept]

    for one, other in zip(asyncio.run(on_a_loop()), blocking(), strict=True):
        assert (one.action, one.id and one.id.public) == (other.action, other.id and other.id.public)


def cookies(text: str) -> list[str]:
    return [text]


def test_a_session_nobody_looks_at_reads_no_cookie_and_asks_no_store() -> None:
    subject = manager(ScriptedStore())
    session = subject.begin(lambda _: pytest.fail("the cookie was read"), None)
    assert subject.commit(session) == KEEP


def test_on_a_loop_no_cookie_means_no_call() -> None:
    subject = manager(as_async(ScriptedStore()))
    assert asyncio.run(subject.abegin(list, ())).is_new


def test_looking_varies_by_cookie_and_says_nothing_else() -> None:
    assert respond(manager(), KEEP, ("Vary", "Accept"), ("Cache-Control", "public, max-age=60")) == {
        "vary": "Accept, Cookie",
        "cache-control": "public, max-age=60",
    }


def test_issuing_sets_the_default_cookie_and_forbids_shared_caching() -> None:
    """Items 1 and 19."""
    assert respond(manager(), ISSUE, ("Cache-Control", "public, max-age=60")) == {
        "set-cookie": f"__Host-sid={ID.public}; Path=/; Secure; HttpOnly; SameSite=Lax",
        "vary": "Cookie",
        "cache-control": "no-store",
    }


def test_expiring_uses_the_attributes_of_setting() -> None:
    line = respond(manager(insecure_dev=True), Outcome(Action.EXPIRE))["set-cookie"]
    assert line.startswith("sid=; Path=/; ")
    assert "Max-Age=0" in line
    assert "HttpOnly; SameSite=Lax" in line
    assert "Secure" not in line


@pytest.mark.parametrize(
    ("scheme", "host", "warns"),
    [
        ("http", "shop.example", True),
        ("https", "shop.example", False),
        ("http", "localhost:8000", False),
        ("http", "127.0.0.1", False),
        ("http", "[::1]:8000", False),
        ("http", "localhost.evil.example", True),
    ],
)
def test_a_secure_cookie_over_plain_http_is_warned_of_once(
    scheme: str, host: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    subject = manager()
    for _ in range(3):
        subject.respond(ISSUE, [], scheme=scheme, host=host)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warns
    with caplog.at_level(logging.DEBUG):
        assert ID.public not in caplog.text


def test_five_cookies_of_the_name_are_an_attack_and_cost_no_call() -> None:
    events: list[Event] = []
    subject = manager(ScriptedStore(), on_event=events.append)
    cookie = "; ".join(f"__Host-sid={SessionId.from_random(bytes([n]) * 32).public}" for n in range(5))
    session = subject.begin(cookies, cookie)
    assert session.is_new
    subject.commit(session)
    assert [event.kind for event in events] == [Happened.DUPLICATE_TOKEN]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_planted_cookie_never_wins_over_a_valid_one_whatever_the_order(order: tuple[int, int]) -> None:
    """Item 13."""
    subject = manager()
    mine = subject.begin(list, ())
    mine["who"] = "me"
    issued = subject.commit(mine).id
    assert issued is not None
    tokens = [issued.public, ID.public]
    cookie = "; ".join(f"__Host-sid={tokens[n]}" for n in order)
    assert subject.begin(cookies, cookie)["who"] == "me"


def test_of_two_cookies_that_both_open_a_session_none_is_believed() -> None:
    subject = manager()
    tokens = []
    for who in ("me", "mallory"):
        session = subject.begin(list, ())
        session["who"] = who
        tokens.append(subject.commit(session).id)
    cookie = "; ".join(f"__Host-sid={id.public}" for id in tokens if id)
    assert subject.begin(cookies, cookie).is_new


def test_namespaces_on_one_store_do_not_meet() -> None:
    """Item 27."""
    store = MemoryStore()
    shop, forum = manager(store, namespace="shop"), manager(store, namespace="forum")
    session = shop.begin(list, ())
    session["cart"] = 1
    issued = shop.commit(session).id
    assert issued is not None
    assert forum.begin(cookies, f"__Host-sid={issued.public}").is_new


def test_every_event_is_logged_and_handed_on_without_an_id(caplog: pytest.LogCaptureFixture) -> None:
    """Item 116."""
    events: list[Event] = []
    store = MemoryStore()
    subject = manager(store, on_event=events.append)
    with caplog.at_level(logging.DEBUG):
        session = subject.begin(list, ())
        session["cart"] = ["lamp"]
        issued = subject.commit(session).id
        assert issued is not None
        leaving = subject.begin(cookies, f"__Host-sid={issued.public}")
        leaving.destroy()
        subject.commit(leaving)
        subject.commit(subject.begin(cookies, f"__Host-sid={issued.public}"))
        late = subject.begin(cookies, f"__Host-sid={issued.public}")
        assert late.get("cart") is None
        subject.commit(late)
    assert [event.kind for event in events] == [Happened.CREATED, Happened.ENDED, Happened.UNKNOWN_ID]
    assert len(caplog.records) == 3
    assert issued.public not in caplog.text
    assert issued.private.hex() not in caplog.text


def test_unsaved_changes_are_reported_when_the_request_is_over() -> None:
    events: list[Event] = []
    subject = manager(on_event=events.append)
    session = subject.begin(list, ())
    session["cart"] = ["lamp"]
    subject.commit(session)
    session["cart"].append("chair")
    subject.finish(session, thorough=True)
    assert [(event.kind, event.keys) for event in events][1:] == [(Happened.UNSAVED, ("cart",))]


def test_a_record_that_another_deployment_cannot_decode_is_kept_and_named() -> None:
    store = ScriptedStore((Load, Record({"order": b"\x01garbage", "ok": Codec().encode(1)}, 0, 2e9, 3e9)))
    store.load = lambda key: Record({"order": b"\x01\xc1", "ok": Codec().encode(1)}, 2e9, 2e9, 3e9)  # type: ignore[method-assign]
    store.update = lambda key, record, base: Written.DONE if record.values["order"] == b"\x01\xc1" else Written.GONE  # type: ignore[method-assign]
    subject = manager(store)
    session = subject.begin(cookies, f"__Host-sid={ID.public}")
    assert session["ok"] == 1
    with pytest.raises(Exception, match="'order'"):
        session["order"]
    session["ok"] = 2
    assert subject.commit(session).events == ()
