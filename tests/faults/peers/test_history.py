"""The history that real visitors leave behind: outside checkers can read it, and ours find what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import pytest
from tests.cluster.pump import settings
from tests.faults.peers import worker
from tests.faults.peers.hosts import Hosts
from tests.faults.peers.judging import assert_kept
from tests.faults.peers.visitors import crowd

from sojourn.cluster import worker as rules
from sojourn.cluster.local import Settled
from sojourn.cluster.tables import View
from sojourn.testing.dict_tables import DictTables
from sojourn.testing.sim_checks import check
from sojourn.testing.sim_history import Answered, Copy, History, Line, from_lines, to_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """What happened on two hosts on which nothing did."""
    with Hosts(2) as hosts, crowd(hosts, number=4, plan={"write": 60, "read": 40}) as people:
        people.all_served()
        people.go_on(1.0)
        yield assert_kept(people, name="undisturbed")


def promises(history: History) -> set[str]:
    return {finding.promise for finding in check(history)}


def with_last(history: History, fits: Callable[[Line], bool], change: Callable[[Line], Line]) -> History:
    """Return the history with another last line of those that fit."""
    place = max(number for number, line in enumerate(history) if fits(line))
    return [*history[:place], change(history[place]), *history[place + 1 :]]


def nothing_read(line: Line) -> Line:
    assert isinstance(line, Answered | Copy)
    return msgspec.structs.replace(line, reads={})


def test_a_history_survives_its_file(history: History) -> None:
    assert from_lines(to_lines(history)) == history
    assert not check(history)


def test_a_value_that_was_not_shown_is_missed(history: History) -> None:
    forged = with_last(history, lambda line: isinstance(line, Answered) and bool(line.reads), nothing_read)
    assert promises(forged) == {"never older"}


def test_a_session_that_one_host_lacks_or_has_otherwise_is_noticed(history: History) -> None:
    place = max(number for number, line in enumerate(history) if isinstance(line, Copy))
    assert promises([*history[:place], *history[place + 1 :]]) == {"copies alike"}
    forged = with_last(
        history, lambda line: isinstance(line, Copy), lambda line: msgspec.structs.replace(line, digest="")
    )
    assert promises(forged) == {"copies alike"}


def test_acknowledged_writes_that_no_copy_has_are_missed(history: History) -> None:
    forged = [nothing_read(line) if isinstance(line, Copy) else line for line in history]
    assert promises(forged) == {"nothing lost"}


def test_what_counts_is_who_has_the_session_not_who_has_the_list_of_its_principal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A logout that others have is acknowledged by them, though the list that it was taken off is not."""
    monkeypatch.setattr(rules, "_acknowledged", rules._acknowledged)
    worker.listen_in()
    told: list[int] = []
    worker._settled.set(told)
    tables = DictTables()
    tables.keep_view(View((), ready=True))
    for name, hosts in ((bytes(32), 1), (bytes(64), 0)):
        talk = rules._acknowledged(tables, settings("a", ("a", "b"), acks=1), name, 1)
        next(talk)
        with suppress(StopIteration):
            talk.send(Settled(1, hosts, hosts > 0))
    assert told == [1]
