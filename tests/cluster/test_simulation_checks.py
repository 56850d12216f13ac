"""The checkers themselves: each forged history breaks one promise, and its neighbour does not."""

from __future__ import annotations

import pytest
from tests.cluster.forged import Forged

from sojourn.testing.sim_checks import check
from sojourn.testing.sim_history import (
    Begins,
    Counted,
    Finding,
    Question,
    Settled,
    Trouble,
    from_lines,
    story,
    to_lines,
)


def test_a_history_in_which_nothing_is_wrong_has_no_findings() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    second = story.write(1, "b", "s", reads={"x": first})
    story.read(1, "c", "s", reads={"x": second})
    story.finally_("s", {"x": second})
    assert story.broken() == set()


def test_a_value_from_before_the_browsers_own_write_is_older() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    second = story.write(1, "a", "s", reads={"x": first})
    story.read(1, "b", "s", reads={"x": first})
    story.finally_("s", {"x": second})
    assert story.broken() == {"never older"}


def test_no_value_where_the_browser_has_seen_one_is_older() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.read(1, "b", "s", reads={})
    story.finally_("s", {"x": first})
    assert story.broken() == {"never older"}


def test_a_removal_is_a_write_like_others() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    removal = story.send(1, "a", "write", "s", x=None)
    story.answer(removal, "s", found=True, reads={"x": first}, wrote=True, hosts=1)
    story.read(1, "b", "s", reads={})
    story.finally_("s", {})
    assert story.broken() == set()
    story.read(1, "c", "s", reads={"x": first})
    assert story.broken() == {"never older"}


def test_another_browsers_older_view_is_not_held_against_the_host() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.read(2, "a", "s", reads={"x": first})
    second = story.write(1, "a", "s", reads={"x": first})
    story.read(2, "b", "s", reads={"x": first})
    story.finally_("s", {"x": second})
    assert story.broken() == set()


def test_what_a_browser_was_shown_counts_although_another_wrote_it() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    second = story.write(1, "a", "s", reads={"x": first})
    story.read(2, "a", "s", reads={"x": second})
    story.read(2, "b", "s", reads={"x": first})
    story.finally_("s", {"x": second})
    assert story.broken() == {"never older"}


@pytest.mark.parametrize("does", ["logout", "read"])
def test_a_login_under_which_somebody_else_logs_out_goes_on_without_the_values(does: str) -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.read(2, "a", "s", reads={"x": first})
    login = story.send(2, "a", "login", "s", y=1)
    meanwhile = story.send(1, "b", does, "s")
    story.answer(
        meanwhile, None if does == "logout" else "s", found=True, reads={"x": first}, ended=does == "logout", hosts=1
    )
    story.answer(login, "t", found=True, reads={"x": first}, wrote=True, ended=True, hosts=1)
    story.read(2, "a", "t", reads={"y": login})
    story.finally_("s", {}, "ended" if does == "logout" else "retired")
    story.finally_("t", {"y": login})
    assert story.broken() == (set() if does == "logout" else {"never older"})


def test_a_session_that_nobody_ended_must_be_found() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    request = story.send(1, "b", "read", "s")
    story.answer(request, "s", found=False)
    story.finally_("s", {"x": first})
    assert story.broken() == {"never older"}


def test_a_session_that_somebody_may_have_ended_need_not_be_found() -> None:
    story = Forged()
    story.write(1, "a", None, "s")
    story.send(2, "a", "logout", "s")  # never answered
    request = story.send(1, "b", "read", "s")
    story.answer(request, "s", found=False)
    story.finally_("s", {}, "ended")
    assert story.broken() == set()


@pytest.mark.parametrize("hosts", [0, 1])
def test_an_id_that_one_host_gave_alone_need_not_be_found_when_its_disk_is_lost(hosts: int) -> None:
    """What it was renewed from is on the other host still, and the browser does not have that id any more."""
    story = Forged()
    first = story.write(1, "a", None, "s", hosts=1)
    request = story.send(1, "a", "renew", "s")
    story.answer(request, "t", found=True, reads={"x": first}, ended=True, hosts=hosts)
    story.happens("disk lost", "a")
    request = story.send(1, "a", "read", "t")
    story.answer(request, "t", found=False)
    story.finally_("s", {"x": first})
    assert ("never older" in story.broken()) is (hosts > 0)


@pytest.mark.parametrize("before", [False, True], ids=["never", "before"])
def test_what_a_write_was_made_upon_need_not_be_shown_beside_it_unless_it_was_seen_before(before: bool) -> None:
    """That is on a third host, which is cut off: it comes in that one's own log, and floors name writes one by one."""
    story = Forged()
    story.write(1, "a", None, "s")
    upon = story.write(2, "b", "s", reads={"x": 1})
    later = story.send(2, "c", "write", "s", y=1)
    story.answer(later, "s", found=True, reads={"x": upon}, wrote=True, hosts=1)
    if before:
        story.read(1, "c", "s", reads={"x": upon})
    story.read(1, "a", "s", reads={"x": 1, "y": later})
    story.read(1, "a", "s", reads={"x": 1, "y": later})
    story.finally_("s", {"x": upon, "y": later})
    assert ("never older" in story.broken()) is before


def test_an_acknowledged_write_that_is_missing_at_the_end_is_lost() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.write(2, "b", "s", reads={"x": first})
    story.finally_("s", {"x": first})
    assert story.broken() == {"nothing lost"}


def test_of_two_writes_that_did_not_know_of_each_other_either_may_stand() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    second = story.write(2, "b", "s", reads={"x": first})
    story.write(3, "c", "s", reads={"x": first})
    story.finally_("s", {"x": second})
    assert story.broken() == set()


def test_a_write_on_two_hosts_survives_one_lost_disk_and_not_two() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s", hosts=1)
    second = story.write(2, "a", "s", reads={"x": first}, hosts=1)
    assert second
    story.happens("disk lost", "a")
    story.finally_("s", {"x": first})
    story.happens("probe")
    assert story.broken() == {"nothing lost"}
    story.lines.insert(-4, Trouble(7, "disk lost", ("b",)))
    assert story.broken() == set()


def test_after_a_quiet_a_write_is_everywhere_and_survives_what_it_would_not_have_before() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s", hosts=0)
    story.write(2, "a", "s", reads={"x": first}, hosts=0)
    story.happens("disk lost", "a")
    story.finally_("s", {"x": first})
    assert story.broken() == set()
    story.lines.insert(-4, Trouble(5.5, "quiet"))
    story.lines[-4] = Trouble(6, "disk lost", ("a",))
    assert story.broken() == {"nothing lost"}


def test_a_session_that_lives_after_its_logout_was_acknowledged_is_a_resurrection() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.end("a", "s", first)
    story.finally_("s", {"x": first})
    assert story.broken() == {"no resurrection"}


def test_what_a_renewal_made_of_a_session_ends_with_it() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.end("a", "s", first, "renew", into="t")
    story.end("b", "s", first)
    story.finally_("s", {}, "ended")
    story.finally_("t", {"x": first})
    assert story.broken() == {"no resurrection"}


def test_where_a_session_was_ended_it_is_never_found_again() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.end("a", "s", first)
    probe = story.send(2, "b", "probe", "s")
    story.answer(probe, "s", found=True, reads={"x": first})
    story.finally_("s", {}, "ended")
    assert story.broken() == set()  # b may not know yet
    probe = story.send(2, "a", "probe", "s")
    story.answer(probe, "s", found=True, reads={"x": first})
    assert story.broken() == {"no resurrection"}


def test_copies_that_differ_and_copies_that_are_missing_are_not_alike() -> None:
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.finally_("s", {"x": first}, b="other")
    assert story.broken() == {"copies alike"}
    story = Forged()
    first = story.write(1, "a", None, "s")
    story.finally_("s", {"x": first}, hosts="ab")
    assert story.broken() == {"copies alike"}


def test_an_acknowledgement_of_what_no_disk_has_is_not_honest() -> None:
    story = Forged()
    story.lines.append(Settled(5.0, "a", "s", 1, 1, True, 4.0))
    assert story.broken() == set()
    story.lines.append(Settled(6.0, "a", "s", 1, 0, True, 5.0))
    assert story.broken() == {"honest"}
    story.lines.append(Trouble(5.5, "disk lost", ("b",)))
    assert story.broken() == set()


def test_under_replicated_writes_must_be_counted() -> None:
    story = Forged()
    story.lines.append(Counted("a", 2, 2))
    assert story.broken() == set()
    story.lines.append(Counted("c", 2, 1, for_others=1))
    assert story.broken() == set()
    story.lines.append(Counted("b", 1, 2))
    assert story.broken() == {"honest"}


def test_a_host_that_is_about_to_leave_is_none_that_must_have_a_write() -> None:
    story = Forged(alone="refuse", acks=2)
    mark = story.write(0, "a", None, "s")
    story.finally_("s", {"x": mark})
    assert story.broken() == {"honest"}
    story.lines.insert(1, Trouble(0.0, "is to leave", ("c",)))
    assert story.broken() == set()


def test_a_write_that_policy_refuses_must_not_be_accepted() -> None:
    story = Forged(alone="refuse")
    first = story.write(1, "a", None, "s", hosts=0)
    story.finally_("s", {"x": first})
    assert story.broken() == {"honest"}


def test_after_quiet_every_request_is_answered() -> None:
    story = Forged()
    story.happens("over")
    story.happens("quiet")
    assert check(story.lines) == []
    story.send(1, "a", "read", None)
    assert [finding.promise for finding in check(story.lines)] == ["answers"]
    assert [finding.promise for finding in check([Begins(1, ("a",))])] == ["answers"]


def test_a_history_is_lines_that_can_be_read_back() -> None:
    forged = Forged(copies=2, idle=4.0)
    forged.login(1, "a", None, "q")
    forged.lines.append(Question(1.0, "a", "q"))
    first = forged.write(1, "a", None, "s")
    forged.happens("cut", "a")
    forged.end("a", "s", first)
    forged.finally_("s", {"x": first}, "ended")
    lines = to_lines(forged.lines)
    assert from_lines(lines) == forged.lines
    assert lines.splitlines()[1].startswith(b'{"is":"sent","at":1')


@pytest.mark.parametrize("about", [("s",), ()])
def test_a_story_shows_what_concerns_a_session(about: tuple[str, ...]) -> None:
    forged = Forged()
    forged.write(1, "a", None, "s")
    forged.end("b", "s", 1, "renew", into="t")
    forged.write(2, "c", None, "other")
    told = story(forged.lines, Finding("never older", "", about))
    assert "renew s" in told
    assert ("other" in told) == (not about)
