"""Adapters that break a promise about exclusive blocks, or about visitors who are served as anonymous in an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.adapters.broken import Broken, values

from sojourn.adapters.asgi import Message, Receive, Scope, Send
from sojourn.core.capability import Release
from sojourn.core.opened import Opened
from sojourn.core.outcome import KEEP
from sojourn.core.session import Session
from sojourn.errors import StoreUnavailable


class BrokenBlock(Broken):
    """The middleware with two more places to break it: where a block is entered, and where it is left."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        exclusive = manager.exclusive
        manager.exclusive = lambda session, wait, lease: Between(self, exclusive(session, wait, lease), session)

    async def enter(self, block: Any, session: Session) -> None:
        """Enter a block."""
        await block.__aenter__()

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        """Leave a block."""
        await block.__aexit__(*raised)


class Between:
    """Stands between a handler and its block."""

    def __init__(self, broken: BrokenBlock, block: Any, session: Session) -> None:
        self.broken, self.block, self.session = broken, block, session

    async def __aenter__(self) -> None:
        await self.broken.enter(self.block, self.session)

    async def __aexit__(self, *raised: Any) -> None:
        await self.broken.leave(self.block, self.session, *raised)


NOBODY_RAISED = (None, None, None)

# -- exclusive blocks ------------------------------------------------------------------------------------------


class LocksNothing(BrokenBlock):
    """A block that holds nobody back."""

    async def enter(self, block: Any, session: Session) -> None:
        pass

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        await asyncio.sleep(0.05)  # the gap that a network makes


class ServesWhoHasWaitedTooLong(BrokenBlock):
    """Lets a request in that could not have the session to itself."""

    async def enter(self, block: Any, session: Session) -> None:
        with suppress(Exception):
            await block.__aenter__()


class AnswersBusyWith500(BrokenBlock):
    """Takes a busy session for a mistake in the application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def failed(message: Message) -> None:
            busy = values(message.get("headers", []), b"retry-after") == [b"1"]
            await send({**message, "status": 500} if busy else message)

        await super().__call__(scope, receive, failed)


class LocksEveryRequest(BrokenBlock):
    """Serves one request of a visitor at a time, as PHP does."""

    async def handle(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/alone"):
            await app(scope, receive, send)
        else:
            async with scope["session"].exclusive(wait=0):
                await app(scope, receive, send)


class KeepsTheLockOnFailure(BrokenBlock):
    """Gives the lock back only where all went well."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        if raised == NOBODY_RAISED:
            await block.__aexit__(*raised)


class StoresHalfABlock(BrokenBlock):
    """Stores what a block had done when it raised."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        await block.__aexit__(*NOBODY_RAISED)


class StoresNothingOnLeaving(BrokenBlock):
    """Leaves it to the commit to store what was done in a block that is no longer held by then."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        block._store = lambda: self.nothing()
        await block.__aexit__(*raised)

    def nothing(self) -> Any:
        return KEEP
        yield


class ForgetsWhatABlockAskedFor(BrokenBlock):
    """A cookie that was asked for in a block never goes out."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        await block.__aexit__(*raised)
        session.owed = None


class LeavesLoginsBehind(BrokenBlock):
    """The id stays what it was before the login."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        await block.__aexit__(*raised)
        session._rotation = None


class LeavesLogoutsBehind(BrokenBlock):
    """The session that was ended lives on."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        await block.__aexit__(*raised)
        session._ending = None


class LocksEveryVisitor(BrokenBlock):
    """Asks the store for the lock of a session that is not there."""

    async def enter(self, block: Any, session: Session) -> None:
        self.store.acquire(bytes(32), b"somebody", 0.0, 1.0)
        await block.__aenter__()


class GoesOnWithoutALock(BrokenBlock):
    """Takes a store that cannot lock for one that has."""

    async def enter(self, block: Any, session: Session) -> None:
        with suppress(StoreUnavailable):
            await block.__aenter__()


class FailsWhereALockCannotBeGivenBack(BrokenBlock):
    """What the request did is stored, and the visitor is told that it failed."""

    async def leave(self, block: Any, session: Session, *raised: Any) -> None:
        block._give_back = lambda: self.give_back(block)
        await block.__aexit__(*raised)

    def give_back(self, block: Any) -> Any:
        held, block._held = block._held, None
        if held:
            yield Release(*held)
        return KEEP


# -- anonymous in an outage ------------------------------------------------------------------------------------


class RefusesReaders(Broken):
    """Asks nobody what policy says."""

    def __init__(self, app: Any, manager: Any) -> None:
        super().__init__(app, manager)
        manager.outage = "fail"


class TakesTheUnknownForNew(Broken):
    """Who cannot be looked up is a newcomer, and may begin another session or log out of none."""

    def open(self, opener: Callable[[], Opened], scope: Scope) -> Opened:
        return opener()._replace(outage=None)


class TakesTheCookieOfWhoCannotBeLookedUp(Broken):
    """A page for nobody in particular ends the visitor's session."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        after = await super()._commit(session, scope, message)
        line = (b"set-cookie", self.manager.cookie.expire().encode())
        return after if session.available else {**after, "headers": [*after["headers"], line]}


class WritesBackAfterAnOutage(Broken):
    """Stores the empty session that was served."""

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        if not session.available:
            for id in self.ids(scope):
                record = self.store.load(id.private)
                self.store.update(id.private, record._replace(values={}, version=record.version + 1), record.version)
        return await super()._commit(session, scope, message)


BROKEN_BLOCKS: dict[type[Broken], set[str]] = {
    LocksNothing: {
        "requests_in_exclusive_blocks_take_turns",
        "many_requests_in_exclusive_blocks_are_all_counted",
        "who_waits_too_long_for_a_block_is_503_and_stores_nothing",
    },
    ServesWhoHasWaitedTooLong: {"who_waits_too_long_for_a_block_is_503_and_stores_nothing"},
    AnswersBusyWith500: {"who_waits_too_long_for_a_block_is_503_and_stores_nothing"},
    LocksEveryRequest: {"a_request_without_a_block_waits_for_nobody"},
    KeepsTheLockOnFailure: {"an_exclusive_block_gives_back_what_it_holds"},
    StoresHalfABlock: {"a_handler_that_raises_in_its_block_stores_nothing"},
    StoresNothingOnLeaving: {"what_a_block_stored_stays_whatever_the_answer_is"},
    ForgetsWhatABlockAskedFor: {"a_cookie_that_is_asked_for_in_a_block_reaches_the_browser"},
    LeavesLoginsBehind: {"a_login_around_a_block_changes_the_id_as_any_login"},
    LeavesLogoutsBehind: {"a_logout_around_a_block_ends_the_session_as_any_logout"},
    LocksEveryVisitor: {"a_new_session_is_nobody_elses_and_needs_no_lock"},
    GoesOnWithoutALock: {"a_store_that_cannot_lock_is_503"},
    FailsWhereALockCannotBeGivenBack: {"a_lock_that_cannot_be_given_back_fails_nobody"},
    RefusesReaders: {"policy_may_serve_readers_as_anonymous_in_an_outage"},
    TakesTheUnknownForNew: {
        "policy_may_serve_readers_as_anonymous_in_an_outage",
        "who_is_served_as_anonymous_in_an_outage_can_change_nothing",
        "a_logout_during_an_outage_is_no_success",
    },
    TakesTheCookieOfWhoCannotBeLookedUp: {"policy_may_serve_readers_as_anonymous_in_an_outage"},
    WritesBackAfterAnOutage: {"nothing_is_written_back_once_the_store_can_answer_again"},
}
"""The broken adapters, each with the stories that must reject it."""
