"""The checkers of sessions that end by themselves, of revocations and of made-up cookies: each can be broken."""

from __future__ import annotations

import pytest
from tests.cluster.forged import Forged

from sojourn.testing.sim_checks import check
from sojourn.testing.sim_history import Copy, Question, Trouble


def test_a_session_that_nobody_has_looked_at_for_too_long_is_shown_to_nobody() -> None:
    story = Forged(idle=10.0)
    first = story.write(1, "a", None, "s")
    story.passes(6)
    story.read(1, "a", "s", reads={"x": first})
    story.passes(6)
    story.read(1, "b", "s", reads={"x": first})
    assert story.broken() == set()
    story.passes(10)
    story.read(1, "b", "s", reads={"x": first})
    assert story.broken() == {"no afterlife"}


def test_a_look_that_found_nothing_prolongs_nothing() -> None:
    story = Forged(idle=10.0)
    first = story.write(1, "a", None, "s")
    story.passes(6)
    request = story.send(2, "c", "read", "s")
    story.answer(request, "s", found=False)
    story.passes(6)
    story.read(1, "b", "s", reads={"x": first})
    assert story.broken() == {"no afterlife"}


def test_a_session_that_is_too_old_is_shown_to_nobody_however_often_it_is_looked_at_and_renewed() -> None:
    story = Forged(lifetime=10.0)
    first = story.write(1, "a", None, "s")
    story.end("a", "s", first, "renew", into="t")
    story.passes(3)
    story.read(1, "a", "t", reads={"x": first})
    assert story.broken() == set()
    story.passes(3)
    story.read(1, "a", "t", reads={"x": first})
    assert story.broken() == {"no afterlife"}


def test_a_login_begins_a_life() -> None:
    story = Forged(lifetime=10.0)
    story.login(1, "a", None, "s")
    story.passes(6)
    story.login(1, "a", "s", "t")
    story.passes(6)
    story.read(1, "a", "t")
    assert story.broken() == set()


@pytest.mark.parametrize(("ahead", "broken"), [(-5.0, set()), (0.0, {"no afterlife"}), (5.0, {"no afterlife"})])
def test_a_clock_that_is_behind_shows_a_session_for_as_much_longer(ahead: float, broken: set[str]) -> None:
    story = Forged(idle=10.0)
    story.lines.append(Trouble(1, "clock", ("b",), ahead))
    first = story.write(1, "a", None, "s")
    story.passes(11)
    story.read(1, "b", "s", reads={"x": first})
    assert story.broken() == broken


@pytest.mark.parametrize(("seconds", "broken"), [(11, set()), (5, {"never older"})])
def test_a_session_need_not_be_found_once_it_may_be_over_and_no_sooner(seconds: int, broken: set[str]) -> None:
    story = Forged(idle=10.0)
    first = story.write(1, "a", None, "s")
    story.passes(seconds)
    request = story.send(1, "b", "read", "s")
    story.answer(request, "s", found=False)
    story.finally_("s", {"x": first})
    assert story.broken() == broken


def test_a_session_that_is_over_need_not_be_there_at_the_end() -> None:
    story = Forged(idle=10.0)
    story.write(1, "a", None, "s")
    story.passes(5)
    story.happens("quiet")
    assert story.broken() == {"nothing lost"}
    story.passes(5)
    story.happens("quiet")
    assert story.broken() == set()


def held(story: Forged, host: str, until: float, digest: str = "same") -> None:
    story.lines.append(Copy(host, "s", "live", digest, {}, ("a", "b", "c"), until))


@pytest.mark.parametrize(("until", "broken"), [(2.0, set()), (4.0, set()), (20.0, {"copies alike"})])
def test_what_is_over_may_be_swept_and_what_is_not_may_not(until: float, broken: set[str]) -> None:
    story = Forged()
    story.lines.append(Trouble(1, "clock", ("c",), 5.0))
    story.happens("quiet")
    held(story, "a", until)
    held(story, "b", until)
    assert story.broken() == broken


def test_copies_that_differ_are_alike_only_if_they_are_over() -> None:
    story = Forged()
    story.happens("quiet")
    held(story, "a", 0.5)
    held(story, "b", 0.7, "other")
    assert story.broken() == set()
    held(story, "c", 30.0)
    assert story.broken() == {"copies alike"}


def test_after_a_revocation_its_host_opens_no_session_that_it_knew() -> None:
    story = Forged()
    story.login(1, "a", None, "s")
    story.login(2, "b", None, "t")
    story.revoke("a")
    story.read(2, "a", "t")  # it was on one other host, perhaps not on this one
    story.read(1, "b", "s")  # not told yet
    assert story.broken() == set()
    story.read(1, "a", "s")
    assert story.broken() == {"revoked"}


def test_a_login_that_all_hosts_had_is_known_to_the_one_that_revokes() -> None:
    story = Forged()
    story.login(1, "b", None, "s", hosts=2)
    story.revoke("a")
    story.read(1, "a", "s")
    assert story.broken() == {"revoked"}


def test_a_revocation_that_all_hosts_have_holds_on_all_at_once() -> None:
    story = Forged()
    story.login(1, "a", None, "s")
    story.revoke("a", hosts=2)
    story.read(1, "b", "s")
    assert story.broken() == {"revoked"}


@pytest.mark.parametrize("copies", [None, 2])
def test_after_quiet_a_revoked_session_opens_nowhere(copies: int | None) -> None:
    story = Forged(copies=copies)
    story.login(1, "b", None, "s")
    story.happens("quiet")
    story.revoke("a")
    story.happens("quiet")
    assert story.broken() == set()
    story.read(1, "c", "s")
    assert story.broken() == {"revoked"}


def test_what_a_renewal_made_of_a_revoked_session_does_not_outlive_the_quiet() -> None:
    story = Forged()
    story.login(1, "a", None, "s")
    story.revoke("a")
    story.end("b", "s", 0, "renew", into="t")
    story.read(1, "b", "t")
    assert story.broken() == set()
    story.happens("quiet")
    story.finally_("t", {})
    assert story.broken() == {"revoked"}


def test_a_revocation_that_was_lost_with_its_only_disk_promises_nothing() -> None:
    story = Forged()
    story.login(1, "a", None, "s")
    story.revoke("a", hosts=0)
    story.happens("disk lost", "a")
    story.happens("quiet")
    story.read(1, "a", "s")
    assert story.broken() == set()


def test_a_login_after_the_revocation_lives() -> None:
    story = Forged()
    story.login(1, "a", None, "s")
    story.revoke("a", hosts=2)
    story.login(1, "a", None, "t")
    story.read(1, "a", "t")
    story.finally_("t", {})
    assert story.broken() == set()


def test_a_revocation_excuses_only_who_has_logged_in() -> None:
    story = Forged()
    story.write(1, "a", None, "s")
    story.revoke("a")
    request = story.send(1, "a", "read", "s")
    story.answer(request, "s", found=False)
    story.finally_("s", {"x": 1})
    assert story.broken() == {"never older"}


def forge(story: Forged, **answer: object) -> None:
    story.answer(story.send(9, "a", "forge", "made up"), None, **answer)


def test_a_cookie_that_was_made_up_opens_nothing_and_leaves_nothing() -> None:
    story = Forged()
    forge(story, found=False)
    assert story.broken() == set()
    forge(story, found=True)
    assert story.broken() == {"forged in vain"}
    story = Forged()
    forge(story, found=False)
    story.finally_("made up", {}, "ended")
    assert story.broken() == {"forged in vain"}


def test_a_cookie_that_was_made_up_causes_a_bounded_number_of_questions() -> None:
    story = Forged()
    forge(story, found=False)
    story.lines += [Question(float(number), "a", "made up") for number in range(40)]
    assert story.broken() == set()
    story.lines += [Question(40 + number / 10, "a", "made up") for number in range(8)]
    assert story.broken() == {"forged in vain"}
    story.lines[-4:-4] = [Trouble(40.4, "agent started", ("a",))]
    assert story.broken() == set()


def test_whoever_forges_need_not_be_answered() -> None:
    story = Forged()
    story.happens("over")
    story.happens("quiet")
    story.send(9, "a", "forge", "made up")
    assert check(story.lines) == []
