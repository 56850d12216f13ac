"""Which hosts there are: by evidence, by those who vouch, and by what is said of a life that is over."""

from __future__ import annotations

import pytest

from sojourn.cluster.member import HIGHEST, MOST_MEMBERS, REMEMBERED, Members
from sojourn.cluster.wire import Member, Ping, to_frame

A, B, C, D = "a:1", "b:1", "c:1", "d:1"
SILENCE, GRACE = 1.0, 10.0


def origin(name: str, life: int = 0) -> bytes:
    return name.encode()[:3] + bytes([life])


def member(name: str, state: str = "alive", incarnation: int = 0, life: int = 0, *, ready: bool = False) -> Member:
    return Member(name, incarnation, state, origin(name, life), ready)


@pytest.fixture
def members() -> Members:
    return Members(member(A), [member(B), member(C)], SILENCE, GRACE, 0.0)


def test_those_remembered_are_suspect_until_they_say_something(members: Members) -> None:
    assert members.state(B) == "suspect"
    assert members.heard(B, 0.1)
    assert members.state(B) == "alive"
    assert not members.heard(B, 0.2)


def test_a_host_that_falls_silent_is_suspect_then_dead_and_not_forgotten(members: Members) -> None:
    members.heard(B, 0.0)
    assert not members.passed(0.9)
    assert members.passed(1.0)
    assert members.state(B) == "suspect"
    assert B in members.placed()
    members.passed(11.1)
    assert members.state(B) == "dead"
    assert B not in members.placed()
    members.passed(12.0 + REMEMBERED)
    assert members.state(B) == "dead"


def test_a_host_that_has_left_is_forgotten_after_a_day(members: Members) -> None:
    members.left(B, 1.0)
    members.passed(0.9 + REMEMBERED)
    assert members.state(B) == "left"
    assert members.passed(1.1 + REMEMBERED)
    assert members.state(B) is None


def test_due_is_when_the_next_one_changes(members: Members) -> None:
    members.heard(B, 0.5)
    assert members.due() == 1.5
    members.passed(1.5)
    assert members.due() == 10.0  # c, of which nothing was ever heard
    members.passed(10.0)
    assert (members.state(B), members.state(C)) == ("suspect", "dead")
    assert members.due() == 11.5


def test_a_broken_stream_makes_suspect_at_once_and_a_hello_alive(members: Members) -> None:
    members.heard(B, 5.0)
    assert members.broken(B, 5.1)
    assert members.state(B) == "suspect"
    assert members.greeted(B, origin(B), 5.2)
    assert members.state(B) == "alive"


def test_whom_another_host_hears_is_suspect_here_and_never_dead(members: Members) -> None:
    members.heard(B, 0.0)
    members.heard(C, 0.0)
    for second in range(1, 60):
        members.heard(C, float(second))
        members.told(C, [member(B), member(C)], float(second))
        members.passed(float(second))
    assert members.state(B) == "suspect"
    assert members.placed() == {A, B, C}


def test_that_somebody_calls_a_host_dead_is_no_evidence(members: Members) -> None:
    members.heard(B, 0.0)
    assert not members.told(C, [member(B, "dead")], 0.1)
    assert members.state(B) == "alive"


def test_a_dead_host_lives_again_when_it_is_heard_or_vouched_for(members: Members) -> None:
    members.passed(20.0)
    assert members.state(B) == members.state(C) == "dead"
    assert members.heard(B, 21.0)
    assert members.state(B) == "alive"
    assert members.told(B, [member(C)], 21.0)
    assert members.state(C) == "suspect"


def test_gossip_of_a_suspect_is_no_evidence_that_it_lives(members: Members) -> None:
    members.passed(20.0)
    assert not members.told(B, [member(C, "suspect")], 21.0)
    assert members.state(C) == "dead"


def test_what_is_said_of_this_host_wrongly_is_contradicted_by_a_higher_incarnation(members: Members) -> None:
    assert members.told(B, [member(A, "dead", 3)], 0.1)
    assert members.me == member(A, "alive", 4)
    assert not members.told(B, [member(A, "dead", 3)], 0.2)


def test_an_earlier_life_of_this_host_is_contradicted_too(members: Members) -> None:
    assert members.told(B, [member(A, "alive", 5, life=9)], 0.1)
    assert members.me == member(A, "alive", 6)


def test_its_own_incarnation_is_taken_over_without_contradiction(members: Members) -> None:
    assert members.told(B, [member(A, "alive", 5)], 0.1)
    assert members.me.incarnation == 5
    assert not members.told(B, [member(A, "alive", 5)], 0.2)
    assert not members.told(B, [member(A, "suspect", 5)], 0.3)


def test_who_has_left_stays_away_until_a_later_incarnation(members: Members) -> None:
    members.heard(B, 0.0)
    assert members.left(B, 1.0)
    assert B not in members.others()
    members.told(C, [member(B)], 1.1)
    members.heard(B, 1.2)
    assert members.state(B) == "left"
    members.told(C, [member(B, "alive", 1)], 1.3)
    assert members.state(B) == "alive"


def test_who_leaves_is_gone_once_it_has_said_goodbye_or_was_silent_for_as_long_as_makes_dead(members: Members) -> None:
    members.heard(B, 0.0)
    members.told(C, [member(B, "left")], 1.0)
    assert not members.is_gone(B, SILENCE + GRACE - 0.1)
    assert members.is_gone(B, SILENCE + GRACE)
    assert members.told(C, [member(B, "left")._replace(farewell=True)], 1.1), "somebody has heard it say so"
    assert members.is_gone(B, 1.1)
    assert next(one for one in members.all() if one.name == B).farewell, "which is told to others"
    members.told(C, [member(B, "alive", 1)], 1.2)
    members.told(C, [member(B, "left", 1)], 1.3)
    assert not members.is_gone(B, 1.3)
    assert members.forget(B, 1.4), "an operator knows that it died meanwhile"
    assert members.is_gone(B, 1.4)


def test_that_a_host_has_left_is_believed_of_its_last_incarnation_only(members: Members) -> None:
    members.told(B, [member(B, incarnation=2)], 0.1)
    assert not members.told(C, [member(B, "left", 1)], 0.2)
    assert members.told(C, [member(B, "left", 2)], 0.3)
    assert members.state(B) == "left"


def test_a_host_with_other_storage_is_not_ready_any_more(members: Members) -> None:
    members.told(B, [member(B, ready=True)], 0.1)
    assert members.is_ready(B)
    members.greeted(B, origin(B, 1), 0.2)
    assert not members.is_ready(B)
    assert members.of_origin(origin(B)) is None
    assert members.of_origin(origin(B, 1)) == B


def test_others_do_not_say_of_a_host_that_it_is_ready(members: Members) -> None:
    members.told(C, [member(B, ready=True)], 0.1)
    assert not members.is_ready(B)


def test_names_are_learned_from_others_up_to_a_bound(members: Members) -> None:
    assert members.told(B, [member(D)], 0.1)
    assert members.state(D) == "suspect"
    members.told(B, [member(f"h{number}:1") for number in range(2 * MOST_MEMBERS)], 0.2)
    assert len(members.all()) == MOST_MEMBERS


def test_the_dead_that_are_not_known_are_not_learned(members: Members) -> None:
    assert not members.told(B, [member(D, "dead"), member("e:1", "left")._replace(farewell=True)], 0.1)
    assert members.state(D) is None


def test_what_is_no_name_of_a_host_is_not_forgotten(members: Members) -> None:
    assert not members.forget("nonsense", 0.1)
    assert members.state("nonsense") is None
    assert members.forget(D, 0.1)


def test_a_host_that_was_leaving_is_learned_and_one_that_has_said_goodbye_is_not(members: Members) -> None:
    members.told(C, [member(D, "left")._replace(farewell=True)], 0.1)
    assert members.state(D) is None
    members.told(C, [member(D, "left")], 0.2)
    assert members.of_origin(origin(D)) == D
    assert not members.is_gone(D, 0.2)
    assert D not in members.others()


def test_while_this_host_stood_still_nobody_else_was_silent(members: Members) -> None:
    members.heard(B, 0.0)
    members.slept(30.0)
    members.passed(30.5)
    assert members.state(B) == "alive"


def test_who_leaves_is_placed_nowhere_and_may_stay_after_all(members: Members) -> None:
    members.leaves()
    assert members.placed() == {B, C}
    assert members.me.state == "left"
    assert not members.told(B, [members.me], 0.1)
    members.stays()
    assert members.placed() == {A, B, C}
    assert members.me.incarnation == 2


UNTRUE = [
    member("x" * 300 + ":1"),
    member("two\nlines:1"),
    member("no port"),
    member(D, "asleep"),
    member(D, incarnation=HIGHEST),
    member(D, incarnation=-1),
    member(D)._replace(origin=b"too long"),
]


@pytest.mark.parametrize("said", UNTRUE, ids=range(len(UNTRUE)))
def test_what_cannot_be_said_of_a_host_is_not_learned_nor_passed_on(members: Members, said: Member) -> None:
    before = members.all()
    assert not members.told(B, [said], 0.0)
    assert members.all() == before
    assert members.states([said]) == {}


def test_no_incarnation_that_is_made_up_outgrows_what_can_be_sent(members: Members) -> None:
    members.told(B, [member(A, "dead", (1 << 64) - 1)], 0.0)
    assert to_frame(Ping(1, members.all(), {}))
