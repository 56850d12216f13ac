"""What is left when somebody empties the server: nobody is logged in, and nothing that ended is back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.servers.memcached import MemcachedServers
from tests.servers.redis import RedisServer

from sojourn import Session, SessionManager

pytestmark = pytest.mark.slow


def visit(manager: SessionManager, handler: Any, cookie: str = "") -> str:
    """Serve one request; return the cookie that the browser has afterwards."""
    session = manager.begin(lambda field: [field] if field else [], cookie)
    handler(session)
    outcome = manager.commit(session)
    return f"__Host-sid={outcome.id.public}" if outcome.id else cookie


def principal_of(manager: SessionManager, cookie: str) -> str | None:
    return manager.begin(lambda field: [field], cookie).principal


def after_it_was_emptied(manager: SessionManager, empty: Any) -> None:
    """Log two visitors in and one of them out, empty the server, and see who is who."""
    stays = visit(manager, lambda session: session.login("alice"))
    left = visit(manager, lambda session: session.login("bob"))
    visit(manager, Session.logout, left)
    slow = manager.begin(lambda field: [field], stays)
    slow["late"] = 1
    empty()
    assert manager.commit(slow).id is None
    assert [principal_of(manager, cookie) for cookie in (stays, left)] == [None, None]
    again = visit(manager, lambda session: session.login("alice"), stays)
    assert again != stays
    assert [principal_of(manager, cookie) for cookie in (stays, again)] == [None, "alice"]
    manager.close()


def test_after_flushall_all_are_anonymous_and_nothing_ended_is_back(redis_server: RedisServer) -> None:
    redis_server.fresh()
    after_it_was_emptied(SessionManager(redis_server.url), redis_server.admin.flushall)


def test_after_flush_all_all_are_anonymous_and_nothing_ended_is_back(memcached_servers: MemcachedServers) -> None:
    memcached_servers.fresh()
    after_it_was_emptied(
        SessionManager(memcached_servers.url), lambda: [server.flush() for server in memcached_servers]
    )
