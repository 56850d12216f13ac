"""Adapters that each break one promise. They prove that the contract can fail.

``BROKEN`` says of each which stories must reject it. All are variants of the ASGI middleware. They reach into private
parts where that makes a mistake short to write down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any

from sojourn.adapters.asgi import Message, Receive, Scope, Send, SessionMiddleware, read_cookies
from sojourn.core.ids import SessionId
from sojourn.core.opened import Opened, Standing
from sojourn.core.record import Record
from sojourn.core.session import Session
from sojourn.errors import StoreUnavailable, ValueNotStorable
from sojourn.testing.adapter_harness import INSIDE

Fields = list[tuple[bytes, bytes]]


class Broken(SessionMiddleware):
    """The middleware with four places to break it; as it stands it is sound."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = self.request(scope["headers"])

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self.answer(message["status"], list(message.get("headers", ())))}
            await send(message)

        await super().__call__(scope, receive, answer)

    def __init__(self, app: Any, manager: Any) -> None:
        async def handled(scope: Scope, receive: Receive, send: Send) -> None:
            session = scope["session"]
            opener = session._opener
            session._opener = lambda: self.open(opener, scope)
            await self.handle(app, scope, receive, send)

        super().__init__(handled, manager)

    def request(self, headers: Fields) -> Fields:
        """Return what the request's headers are taken for."""
        return headers

    def open(self, opener: Callable[[], Opened], scope: Scope) -> Opened:
        """Return what the first look finds."""
        return opener()

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        await app(scope, receive, send)

    def answer(self, status: int, headers: Fields) -> Fields:
        """Return the headers that go out, refusals included."""
        return headers

    def ids(self, scope: Scope) -> list[SessionId]:
        """Return the ids in the request."""
        return [
            id for token in self.manager.cookie.read(read_cookies(scope["headers"])) if (id := SessionId.parse(token))
        ]

    @property
    def store(self) -> Any:
        """The store."""
        return self.manager.store


def without(headers: Fields, *names: bytes) -> Fields:
    return [field for field in headers if field[0] not in names]


def values(headers: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def answered(status: int, *headers: tuple[bytes, bytes]) -> list[Message]:
    return [
        {"type": "http.response.start", "status": status, "headers": list(headers)},
        {"type": "http.response.body", "body": INSIDE.encode()},
    ]


# -- what the browser is told ----------------------------------------------------------------------------------


class ForgetsVary(Broken):
    """Never says that the answer depends on the cookie."""

    def answer(self, status: int, headers: Fields) -> Fields:
        return [(k, v.replace(b", Cookie", b"")) for k, v in headers if (k, v) != (b"vary", b"Cookie")]


class VariesOnlyWhereAValueWasRead(Broken):
    """``key in session`` and its like do not count (CVE-2026-27205)."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        counts = session._live or values(after["headers"], b"set-cookie")
        return after if counts else {**after, "headers": without(after["headers"], b"vary")}


class OverwritesVary(Broken):
    """Says Vary: Cookie in place of what the application said."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        return {**after, "headers": [*without(after["headers"], b"vary"), (b"vary", b"Cookie")]}


class LeavesPublic(Broken):
    """Leaves Cache-Control as the application wrote it (CVE-2024-26144)."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        kept = [field for field in message["headers"] if field[0] == b"cache-control"]
        return {**after, "headers": [*without(after["headers"], b"cache-control"), *kept]}


class LeavesTheNetworksTheirFields(Broken):
    """Believes that every cache reads Cache-Control."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        theirs = (b"cdn-cache-control", b"surrogate-control", b"x-accel-expires")
        return {**after, "headers": [*after["headers"], *(f for f in message["headers"] if f[0] in theirs)]}


class LosesOtherCookies(Broken):
    """Replaces every Set-Cookie field by its own."""

    def answer(self, status: int, headers: Fields) -> Fields:
        kept = [value for value in values(headers, b"set-cookie") if value.startswith(b"__Host-sid")]
        return [*without(headers, b"set-cookie"), *((b"set-cookie", value) for value in kept)]


class KeepsTheirCookieOfOurName(Broken):
    """Adds its own Set-Cookie to one of the same name."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        theirs = [field for field in message["headers"] if field[0] == b"set-cookie" and b"__Host-sid" in field[1]]
        return {**after, "headers": [*theirs, *after["headers"]]}


class SetsTheCookieTwice(Broken):
    """Once for the save and once more at the end."""

    def answer(self, status: int, headers: Fields) -> Fields:
        return [*headers, *((b"set-cookie", value) for value in values(headers, b"set-cookie"))]


class GivesEveryCookieALifetime(Broken):
    """A cookie that should end with the browser stays for a day."""

    def answer(self, status: int, headers: Fields) -> Fields:
        return [(k, v.replace(b"Path=/;", b"Path=/; Max-Age=86400;")) for k, v in headers]


class ForgetsTheLifetime(Broken):
    """A cookie that should stay ends with the browser."""

    def answer(self, status: int, headers: Fields) -> Fields:
        return [
            (
                k,
                b"; ".join(
                    part for part in v.split(b"; ") if not part.startswith((b"Max-Age=1", b"Max-Age=3", b"Exp"))
                ),
            )
            if k == b"set-cookie" and b"Max-Age=0" not in v
            else (k, v)
            for k, v in headers
        ]


class TakesTheCookieBackCarelessly(Broken):
    """The deletion lacks Secure and the scope, so that browsers ignore it."""

    def answer(self, status: int, headers: Fields) -> Fields:
        return [(k, v.partition(b";")[0] + b"; Max-Age=0" if b"Max-Age=0" in v else v) for k, v in headers]


class SendsTheCookieToEveryReader(Broken):
    """Refreshes the cookie on every answer."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        ids = [] if values(after["headers"], b"set-cookie") or session.is_new else self.ids(scope)
        lines = [(b"set-cookie", self.manager.cookie.issue(id.public).encode()) for id in ids]
        return {**after, "headers": [*after["headers"], *lines]}


class NeverSlides(Broken):
    """A cookie whose id the browser has already is not sent again."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        known = [id.public.encode() for id in self.ids(scope)]
        lines = [field for field in after["headers"] if not any(id in field[1] for id in known)]
        return {**after, "headers": lines}


# -- the store -------------------------------------------------------------------------------------------------


class LoadsBeforehand(Broken):
    """Asks the store on every request."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        for id in self.ids(scope):
            self.store.load(id.private)
        await app(scope, receive, send)


class WritesEveryVisit(Broken):
    """Touches the record on every look."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        if record := session.opened.record:
            self.store.touch(session.opened.key, record.accessed_at, record.expires_at, record.version)
        return after


class StoresEveryVisitor(Broken):
    """Every bot gets a record."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        with suppress(RuntimeError):
            session.setdefault("_created", True)
        return await super()._commit(session, scope, message)


class SeesOnlyAssignments(Broken):
    """``session["cart"].append(...)`` is not seen."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        for key in [key for key in session._suspects if key in session._stored and type(session._live[key]) is list]:
            del session._live[key], session._suspects[key]
        return await super()._commit(session, scope, message)


class AsksTheStoreAboutAnyCookie(Broken):
    """Does not look at a cookie's form before it asks the store."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        if read_cookies(scope["headers"]) and not self.ids(scope):
            self.store.load(b"\0" * 32)
        await app(scope, receive, send)


# -- which id is believed --------------------------------------------------------------------------------------


class AdoptsIds(Broken):
    """Stores under an id that the browser made up."""

    def open(self, opener: Callable[[], Opened], scope: Scope) -> Opened:
        opened, now = opener(), self.manager._clock()
        for id in self.ids(scope):
            if opened.record is None and opened.standing is Standing.NEW:
                record = Record({}, now, now, now + 1800)
                self.store.create(id.private, record)
                return Opened(Standing.OWN, id, id.private, record)
        return opened


class TakesBackWhatItDoesNotKnow(Broken):
    """An id that opens nothing is taken back; it may be the one that a login has just handed out."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        stray = session.is_new and self.ids(scope) and not values(after["headers"], b"set-cookie")
        line = (b"set-cookie", self.manager.cookie.expire().encode())
        return {**after, "headers": [*after["headers"], line]} if stray else after


class TakesTheFirstCookie(Broken):
    """Of two cookies of the name it sees the first."""

    def request(self, headers: Fields) -> Fields:
        taken: Fields = []
        for key, value in headers:
            first, *rest = value.split(b"; ")
            taken.append((key, b"; ".join([first, *(r for r in rest if not r.startswith(b"__Host-sid"))])))
        return taken


class ParsesCookiesAsTheStandardLibraryDoes(Broken):
    """One odd cookie and all are gone."""

    def request(self, headers: Fields) -> Fields:
        parsed: Fields = []
        for key, value in headers:
            if key == b"cookie":
                try:
                    known = SimpleCookie(value.decode("latin-1"))
                except CookieError:
                    known = SimpleCookie()
                value = "; ".join(f"{name}={morsel.coded_value}" for name, morsel in known.items()).encode("latin-1")
            parsed.append((key, value))
        return parsed


class TellsWhyNothingOpened(Broken):
    """A stranger learns which ids once existed."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        why = ",".join(event.kind for event in session.opened.events).encode()
        after = await super()._commit(session, scope, message)
        return {**after, "headers": [*after["headers"], *([(b"x-session", why)] if why else [])]}


class RemembersWhoCame(Broken):
    """Keeps what a reader once found under a cookie, whatever became of it in the store."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        self.found: dict[bytes, Opened] = {}

    def open(self, opener: Callable[[], Opened], scope: Scope) -> Opened:
        cookies = b"; ".join(read_cookies(scope["headers"]))
        opened = self.found.get(cookies) or opener()
        if opened.record and scope["path"] == "/show":
            self.found[cookies] = opened
        return opened


class SharesOneSession(Broken):
    """Keeps the session in a global (CVE-2020-35681)."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        self.last: Opened | None = None

    def open(self, opener: Callable[[], Opened], scope: Scope) -> Opened:
        opened = opener()
        if opened.record:
            self.last = opened
        return self.last or opened


# -- login, renewal, logout ------------------------------------------------------------------------------------


class KeepsTheIdAtLogin(Broken):
    """A login and a renewal change the record and not the id: session fixation."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        if session.opened.record and session.rotation:
            key, record = session.opened.current()
            after = record._replace(principal=session.principal, version=record.version + 1)
            self.store.update(key, after, record.version)
            session._rotation = None
            session._opened = session._opened._replace(record=after)
        return await super()._commit(session, scope, message)


class TellsTheNewIdToTheOld(Broken):
    """Whoever presents an old id is handed the new one."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        self.issued: dict[bytes, bytes] = {}

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        forwarded = session.opened.standing is Standing.FORWARDED
        after = await super()._commit(session, scope, message)
        key = session.opened.key or b""
        for line in values(after["headers"], b"set-cookie"):
            self.issued[key] = line
        if forwarded and not values(after["headers"], b"set-cookie"):
            after["headers"] = [*after["headers"], (b"set-cookie", self.issued[key])]
        return after


class OnlyTakesTheCookieBack(Broken):
    """A logout leaves the record: a copy of the cookie works for ever."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        ending = session.ending
        after = await super()._commit(session, scope, message)
        if ending and ending.key and ending.record:
            self.store.create(ending.key, ending.record)
        return after


class ReusesTheEndedId(Broken):
    """What is put after a logout lands under the id that was just refused for good."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        ending = session.ending
        after = await super()._commit(session, scope, message)
        if ending and ending.id and session.opened.record:
            self.store.create(ending.id.private, session.opened.record)
            line = (b"set-cookie", self.manager.cookie.issue(ending.id.public).encode())
            after["headers"] = [*without(after["headers"], b"set-cookie"), line]
        return after


# -- requests that overlap -------------------------------------------------------------------------------------


class WritesBackWhatItRead(Broken):
    """Saves the whole session as it was read: what others stored meanwhile is gone."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        await asyncio.sleep(0.01)  # the gap that a network makes
        if session.opened.record and not session.rotation and not session.ending:
            key, read = session.opened.current()
            now = self.store.load(key)
            if now and now.version != read.version:
                self.store.update(key, read._replace(version=now.version + 1), now.version)
        return await super()._commit(session, scope, message)


class BringsBackTheEnded(Broken):
    """Saves a session whether or not it still exists (CVE-2025-46336)."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        if session.opened.record:
            key, read = session.opened.current()
            now = self.store.load(key)
            if now is None:
                self.store.create(key, read)
            elif now.retired:
                self.store.update(key, read._replace(version=now.version + 1), now.version)
        return await super()._commit(session, scope, message)


class TellsNobody(Broken):
    """Raises no event and calls nobody."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        manager._on_event = None


# -- after the response has begun ------------------------------------------------------------------------------


class CommitsAfterTheResponse(Broken):
    """Stores when the handler has returned: the browser is faster, and no cookie can follow."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        return {**message, "headers": [*message["headers"], (b"vary", b"Cookie")]}

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope["session"].looked:
            self.manager.commit(scope["session"])


class NeverSeals(Broken):
    """Takes changes that nobody will store."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        async def unsealed(message: Message) -> None:
            await send(message)
            scope["session"]._sealed = False

        await app(scope, receive, unsealed)


class Keeper:
    """Stands between a session and its manager."""

    def __init__(self, session: Session) -> None:
        self.session, self.manager = session, session._keeper
        self.codec = self.manager.codec


class DropsLateSaves(Broken):
    """``save()`` after ``reopen()`` does nothing."""

    class Dropping(Keeper):
        async def asave(self, session: Session) -> None:
            session.rebase(session.opened, session.delta())

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]._keeper = self.Dropping(scope["session"])
        await app(scope, receive, send)


class BeginsSessionsTooLate(Broken):
    """``save()`` stores a new session whose id no browser will ever be told."""

    class Beginning(Keeper):
        async def asave(self, session: Session) -> None:
            await self.manager.acommit(session)  # type: ignore[attr-defined]

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]._keeper = self.Beginning(scope["session"])
        await app(scope, receive, send)


# -- what goes wrong -------------------------------------------------------------------------------------------


class CommitsFailures(Broken):
    """Stores on an answer of 500 or above, half of what the handler meant to do."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, {**message, "status": min(message["status"], 499)})
        return {**after, "status": message["status"]}


class CommitsInAFinally(Broken):
    """Stores what a handler had changed when it raised."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            if type(error).__name__ == "HandlerFailed":
                self.manager.commit(scope["session"])
            raise


class CommitsOnlySuccess(Broken):
    """Redirects lose the login that they follow."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        if message["status"] >= 300:
            return {**message, "headers": [*message["headers"], (b"vary", b"Cookie")]}
        return await super()._commit(session, scope, message)


class TakesAnOutageForNobody(Broken):
    """A store that cannot answer makes everybody anonymous."""

    def open(self, opener: Callable[[], Opened], scope: Scope) -> Opened:
        try:
            return opener()
        except StoreUnavailable:
            return Opened()


class HidesAFailedCommit(Broken):
    """Answers as if everything had been stored."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        try:
            return await super()._commit(session, scope, message)
        except StoreUnavailable:
            return {**message, "headers": [*message["headers"], (b"vary", b"Cookie")]}


class ReportsALogoutThatFailed(Broken):
    """During an outage a logout takes the cookie back and leaves the record to whoever has a copy."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        try:
            return await super()._commit(session, scope, message)
        except StoreUnavailable:
            if not session.ending:
                raise
            line = (b"set-cookie", self.manager.cookie.expire().encode())
            return {**message, "headers": [*message["headers"], line]}


class ForgetsRetryAfter(Broken):
    """Lets every client try again at once."""

    def answer(self, status: int, headers: Fields) -> Fields:
        return without(headers, b"retry-after")


class TakesTheCookieBackInAnOutage(Broken):
    """Logs everybody out because a store was restarted."""

    def answer(self, status: int, headers: Fields) -> Fields:
        line = (b"set-cookie", self.manager.cookie.expire().encode())
        return [*headers, line] if values(headers, b"retry-after") else headers


class RefusesInItsOwnWords(Broken):
    """Shows the browser what only the operator should read, and the operator nothing."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except StoreUnavailable:
            for message in answered(503, (b"retry-after", b"7"), (b"cache-control", b"no-store")):
                await send(message)


class AnswersAConflictWith500(Broken):
    """Takes a conflict for a mistake in the application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def failed(message: Message) -> None:
            await send({**message, "status": 500} if message.get("status") == 409 else message)

        await super().__call__(scope, receive, failed)


class HidesAMistake(Broken):
    """Stores nothing of a session with a value that cannot be stored, and says nothing."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        try:
            return await super()._commit(session, scope, message)
        except ValueNotStorable:
            return {**message, "headers": [*message["headers"], (b"vary", b"Cookie")]}


class StoresWhatItCan(Broken):
    """Leaves out the value that cannot be stored and stores the rest."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        try:
            return await super()._commit(session, scope, message)
        except ValueNotStorable as error:
            logging.getLogger("app").exception("left out")
            session.pop(error.path.split("'")[1] if error.path else "slot 1")
            return {**await super()._commit(session, scope, message), "status": 500}


class ReportsNoLosses(Broken):
    """Never asks what was changed and not stored."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        manager.finish = lambda session, thorough: None


class LogsTheCookie(Broken):
    """Helps with debugging."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        logging.getLogger("app").debug("cookies: %r", read_cookies(scope["headers"]))
        await app(scope, receive, send)


BROKEN: dict[type[Broken], set[str]] = {
    ForgetsVary: {"every_kind_of_look_makes_the_answer_vary", "vary_keeps_what_the_application_said"},
    VariesOnlyWhereAValueWasRead: {"every_kind_of_look_makes_the_answer_vary"},
    OverwritesVary: {"vary_keeps_what_the_application_said"},
    LeavesPublic: {"an_answer_with_the_cookie_is_never_for_a_shared_cache"},
    LeavesTheNetworksTheirFields: {"no_delivery_network_is_told_to_keep_an_answer_with_the_cookie"},
    LosesOtherCookies: {"the_applications_own_fields_are_left_alone"},
    KeepsTheirCookieOfOurName: {"a_cookie_of_our_name_that_the_application_sets_gives_way"},
    SetsTheCookieTwice: {
        "the_first_write_sets_exactly_the_default_cookie",
        "there_is_one_cookie_whatever_the_handler_did",
    },
    GivesEveryCookieALifetime: {"the_first_write_sets_exactly_the_default_cookie"},
    ForgetsTheLifetime: {"a_remembered_cookie_says_how_long_and_slides_along"},
    NeverSlides: {"a_remembered_cookie_says_how_long_and_slides_along"},
    TakesTheCookieBackCarelessly: {
        "a_logout_takes_the_cookie_back_and_the_id_is_refused",
        "a_logout_takes_back_a_cookie_of_any_scope",
    },
    SendsTheCookieToEveryReader: {"a_reader_gets_no_cookie_and_writes_nothing"},
    LoadsBeforehand: {"a_route_that_never_looks_costs_nothing", "a_route_that_never_looks_needs_no_store"},
    WritesEveryVisit: {"a_reader_gets_no_cookie_and_writes_nothing", "a_visit_is_written_down_once_an_interval"},
    StoresEveryVisitor: {
        "an_anonymous_visitor_costs_no_store_call",
        "a_visitor_who_only_looks_is_not_stored",
        "a_newcomer_who_only_looks_needs_no_store",
    },
    SeesOnlyAssignments: {"a_change_inside_a_value_is_stored"},
    AsksTheStoreAboutAnyCookie: {"a_malformed_cookie_costs_no_store_call", "a_hostile_cookie_field_is_not_read"},
    AdoptsIds: {"an_unknown_id_is_neither_adopted_nor_taken_back", "a_visitor_who_only_looks_is_not_stored"},
    TakesBackWhatItDoesNotKnow: {
        "an_unknown_id_is_neither_adopted_nor_taken_back",
        "a_logout_of_nobody_says_nothing",
    },
    TakesTheFirstCookie: {"a_planted_second_cookie_never_wins"},
    ParsesCookiesAsTheStandardLibraryDoes: {"the_cookie_is_found_among_odd_neighbours"},
    TellsWhyNothingOpened: {"unknown_ended_expired_and_malformed_cookies_are_answered_alike"},
    RemembersWhoCame: {
        "an_idle_session_ends",
        "an_active_session_ends_at_its_lifetime",
        "a_login_changes_the_id_and_the_old_one_opens_nothing",
        "a_logout_takes_the_cookie_back_and_the_id_is_refused",
    },
    SharesOneSession: {"two_visitors_at_once_stay_two"},
    KeepsTheIdAtLogin: {
        "a_login_changes_the_id_and_the_old_one_opens_nothing",
        "a_renewal_changes_the_id_and_nothing_else",
    },
    TellsTheNewIdToTheOld: {"a_renewal_changes_the_id_and_nothing_else"},
    OnlyTakesTheCookieBack: {"a_logout_takes_the_cookie_back_and_the_id_is_refused"},
    ReusesTheEndedId: {"what_is_put_after_a_logout_begins_under_another_id"},
    WritesBackWhatItRead: {
        "parallel_requests_that_change_different_keys_are_both_kept",
        "many_requests_at_once_are_all_kept",
        "a_slow_reader_reverts_nothing",
    },
    BringsBackTheEnded: {
        "a_slow_request_does_not_undo_a_logout",
        "a_slow_request_does_not_undo_a_login",
        "a_request_in_flight_survives_a_renewal",
    },
    TellsNobody: {"a_lost_update_is_never_silent", "a_late_change_that_nobody_saves_is_reported"},
    CommitsAfterTheResponse: {"the_session_is_stored_before_the_first_byte", "a_stream_may_begin_a_session"},
    NeverSeals: {"a_change_after_the_response_began_is_refused", "a_first_look_after_the_response_began_is_refused"},
    DropsLateSaves: {"a_late_change_is_kept_by_reopen_and_save"},
    BeginsSessionsTooLate: {"a_session_cannot_begin_after_the_response_did"},
    CommitsFailures: {"an_answer_of_500_or_above_stores_nothing"},
    CommitsInAFinally: {"a_handler_that_raises_stores_nothing"},
    CommitsOnlySuccess: {"every_other_answer_stores"},
    TakesAnOutageForNobody: {"a_store_that_cannot_load_is_503"},
    HidesAFailedCommit: {"a_store_that_cannot_write_is_503", "a_logout_during_an_outage_is_no_success"},
    ReportsALogoutThatFailed: {"a_logout_during_an_outage_is_no_success"},
    ForgetsRetryAfter: {"a_store_that_cannot_load_is_503", "a_store_that_cannot_write_is_503"},
    TakesTheCookieBackInAnOutage: {"a_store_that_cannot_load_is_503", "a_store_that_cannot_write_is_503"},
    RefusesInItsOwnWords: {"a_store_that_cannot_load_is_503", "an_outage_is_told_to_the_operator"},
    AnswersAConflictWith500: {"a_conflict_that_policy_refuses_is_409"},
    HidesAMistake: {
        "a_value_that_cannot_be_stored_is_an_error_that_names_it",
        "a_session_that_is_too_large_is_an_error_before_any_write",
    },
    StoresWhatItCan: {"a_value_that_cannot_be_stored_is_an_error_that_names_it"},
    ReportsNoLosses: {
        "what_a_failed_request_changed_is_reported",
        "a_late_change_that_nobody_saves_is_reported",
    },
    LogsTheCookie: {"no_line_of_the_log_shows_what_a_browser_holds"},
}
"""The broken adapters, each with the stories that must reject it."""
