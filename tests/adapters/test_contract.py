"""The adapter contract over every adapter, and over adapters that it must reject."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
from tests.adapters.broken import BROKEN as BROKEN_ANYWHERE
from tests.adapters.broken import Broken
from tests.adapters.broken_blocks import BROKEN_BLOCKS, BrokenBlock
from tests.adapters.mounts import HARNESSES, plain_asgi

from sojourn.core.session import Session
from sojourn.testing.adapter_contract import ADAPTER_STORIES, AdapterHarness, AdapterStory, name_of, rejected_by

BROKEN = BROKEN_ANYWHERE | BROKEN_BLOCKS
STORIES = {story.__name__: story for story in ADAPTER_STORIES}


@pytest.mark.parametrize("make", HARNESSES.values(), ids=HARNESSES)
@pytest.mark.parametrize("story", ADAPTER_STORIES, ids=name_of)
def test_adapter_keeps_its_promise(make: Callable[[], AdapterHarness], story: AdapterStory) -> None:
    with make() as app:
        story(app)


@pytest.mark.parametrize("name", sorted(HARNESSES.keys() - {"wsgi"}))  # there a validator hides that the body is a list
def test_only_an_answer_that_left_time_for_changes_is_searched_for_losses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search encodes every value again, so nearly all requests go without."""
    searched: list[Session] = []
    unsaved = Session.unsaved
    monkeypatch.setattr(Session, "unsaved", lambda session: searched.append(session) or unsaved(session))
    with HARNESSES[name]() as app:
        visitor = app.visitor()
        for path in ("/hello", "/show", "/cart", "/status/404", "/login", "/logout"):
            visitor.visit(path)
        assert searched == []
        visitor.visit("/stream")
        assert len(searched) == 1


@pytest.mark.parametrize(
    ("broken", "story"),
    [(broken, name) for broken, names in BROKEN.items() for name in sorted(names)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_contract_rejects(broken: type[Broken], story: str) -> None:
    """By a story that is about what is broken, and because a promise was: a crash in the adapter proves nothing."""
    app = harness(broken)
    with pytest.raises(AssertionError), app:
        STORIES[story](app)
    assert not re.search(r"^(Type|Attribute|Name|Key|Index|Value|UnboundLocal)Error\b", app.log.text, re.M), (
        app.log.text
    )


@pytest.mark.slow
@pytest.mark.parametrize("frame", [Broken, BrokenBlock])
@pytest.mark.parametrize("story", ADAPTER_STORIES, ids=name_of)
def test_the_frame_of_the_broken_adapters_is_sound(story: AdapterStory, frame: type[Broken]) -> None:
    assert rejected_by(partial(harness, frame), [story]) == set()


def test_every_story_can_fail() -> None:
    """A story that no broken adapter fails may be one that cannot fail."""
    assert set(STORIES) - set().union(*BROKEN.values()) == set()


def harness(middleware: type[Broken]) -> AdapterHarness:
    return AdapterHarness(partial(plain_asgi, middleware=middleware))


CHECKLIST = {
    1: "the_first_write_sets_exactly_the_default_cookie",
    7: "a_remembered_cookie_says_how_long_and_slides_along",
    8: "a_logout_takes_back_a_cookie_of_any_scope",
    9: "there_is_one_cookie_whatever_the_handler_did",
    11: "the_cookie_is_found_among_odd_neighbours",
    13: "a_planted_second_cookie_never_wins",
    14: "a_hostile_cookie_field_is_not_read",
    17: "a_reader_gets_no_cookie_and_writes_nothing",
    18: "every_kind_of_look_makes_the_answer_vary",
    19: "an_answer_with_the_cookie_is_never_for_a_shared_cache",
    23: "a_malformed_cookie_costs_no_store_call",
    24: "an_unknown_id_is_neither_adopted_nor_taken_back",
    29: "a_login_changes_the_id_and_the_old_one_opens_nothing",
    30: "a_login_changes_the_id_and_the_old_one_opens_nothing",
    31: "a_request_in_flight_survives_a_renewal",
    32: "a_renewal_changes_the_id_and_nothing_else",
    33: "what_is_put_after_a_logout_begins_under_another_id",
    35: "an_idle_session_ends",
    36: "an_active_session_ends_at_its_lifetime",
    38: "a_visit_is_written_down_once_an_interval",
    43: "a_logout_takes_the_cookie_back_and_the_id_is_refused",
    49: "a_slow_request_does_not_undo_a_logout",
    50: "a_slow_request_does_not_undo_a_logout",
    52: "a_logout_during_an_outage_is_no_success",
    91: "a_visitor_who_only_looks_is_not_stored",
    92: "a_session_that_is_too_large_is_an_error_before_any_write",
    94: "who_waits_too_long_for_a_block_is_503_and_stores_nothing",
    108: "a_store_that_cannot_load_is_503",
    116: "no_line_of_the_log_shows_what_a_browser_holds",
    120: "unknown_ended_expired_and_malformed_cookies_are_answered_alike",
}
"""The story for each item of the acceptance checklist that an adapter can be held to; item 10 is in test_asgi.py."""


def test_the_checklist_names_stories() -> None:
    assert set(CHECKLIST.values()) <= set(STORIES)
