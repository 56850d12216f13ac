"""The judge of the fault tests can fail: forged histories, and crowds on stores that break their promises."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from queue import SimpleQueue
from random import Random
from threading import Event, Lock
from time import sleep
from typing import Any

import pytest
from tests.faults.crowd import PLAN, Call, People, Tasks, Threads, people
from tests.faults.history import NOBODY, Act, Answer, Loss, Seen, Span, Verdict, Visit, judge
from tests.faults.stalls import Stalls
from tests.servers.process import until

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.memory import MemoryStore

SECRET, ITEMS = "anna/1/secret", ["anna/1", "anna/2", "anna/3"]


def seen(*numbers: int, secret: str = SECRET) -> Seen:
    return Seen(secret, tuple(ITEMS[number - 1] for number in numbers))


def at(second: float, act: Act, found: Seen | None = None, /, **changes: Any) -> Visit:
    """A visit of Anna's that takes half a second."""
    values: dict[str, Any] = {"presented": "a", "secret": f"anna/{second:g}/other", "seen": found}
    return Visit("anna", act, Span(second, second + 0.5), **values | changes)


def append(second: float, number: int, found: Seen | None, /, **changes: Any) -> Visit:
    return at(second, Act.APPEND, found, item=ITEMS[number - 1], **changes)


BEGUN = append(1, 1, NOBODY, presented=None, issued="a", secret=SECRET)
HELD = [BEGUN, append(2, 2, seen(1))]
DOUBTFUL = append(3, 3, seen(1, 2), answer=Answer.DOUBTFUL, error=StoreUnavailable("no answer"))
LOGGED_IN = [*HELD, at(3, Act.LOGIN, seen(1, 2), issued="b")]
LOGGED_OUT = [*HELD, at(3, Act.LOGOUT, seen(1, 2))]
IN_DOUBT = [*HELD, at(3, Act.LOGIN, seen(1, 2), answer=Answer.DOUBTFUL, error=StoreUnavailable("no answer"))]
RENEWED = [*HELD, at(3, Act.ROTATE, seen(1, 2), issued="b")]

GOOD: dict[str, list[Visit]] = {
    "kept": [*HELD, at(4, Act.READ, seen(1, 2))],
    "a doubtful item is there": [*HELD, DOUBTFUL, at(5, Act.READ, seen(1, 2, 3))],
    "a doubtful item is not there": [*HELD, DOUBTFUL, at(5, Act.READ, seen(1, 2))],
    "and comes later": [*HELD, DOUBTFUL, at(5, Act.READ, seen(1, 2)), at(6, Act.READ, seen(1, 2, 3))],
    "tried again": [*HELD, DOUBTFUL, append(5, 3, seen(1, 2)), at(6, Act.READ, seen(1, 2, 3))],
    "logged in": [*LOGGED_IN, at(5, Act.READ, seen(1, 2), presented="b"), at(6, Act.PROBE, NOBODY)],
    "logged out": [*LOGGED_OUT, at(5, Act.PROBE, NOBODY)],
    "a logout in doubt did": [*HELD, at(3, Act.LOGOUT, seen(1, 2), answer=Answer.DOUBTFUL), at(5, Act.READ, NOBODY)],
    "or did not": [*HELD, at(3, Act.LOGOUT, seen(1, 2), answer=Answer.DOUBTFUL), at(5, Act.READ, seen(1, 2))],
    "a login in doubt, done late under the next one": [
        *IN_DOUBT,
        at(5, Act.LOGIN, seen(1, 2), issued="b"),
        append(6, 3, Seen(""), presented="b", secret="anna/6/other"),
    ],
    "or not done": [
        *IN_DOUBT,
        at(5, Act.LOGIN, seen(1, 2), issued="b"),
        at(6, Act.READ, seen(1, 2), presented="b"),
    ],
    "revoked": [*LOGGED_IN, at(5, Act.REVOKE, presented="b"), at(6, Act.READ, NOBODY, presented="b")],
    "not revoked, since not logged in": [*HELD, at(5, Act.REVOKE), at(6, Act.READ, seen(1, 2))],
    "a renewed id serves for the grace": [*RENEWED, at(4, Act.PROBE, seen(1, 2)), at(9, Act.PROBE, NOBODY)],
    "refused": [*HELD, append(3, 3, None, answer=Answer.REFUSED), at(5, Act.READ, seen(1, 2))],
}
LATE_ITEM = append(4, 3, seen(1, 2), presented="b")
WRONG: dict[str, tuple[str, list[Visit]]] = {
    "an item": ("lost item", [*HELD, at(4, Act.READ, seen(1))]),
    "an item that was doubtful, and seen": (
        "lost item",
        [*HELD, DOUBTFUL, at(5, Act.READ, seen(1, 2, 3)), at(6, Act.READ, seen(1, 2))],
    ),
    "a session": ("lost session", [*HELD, at(4, Act.READ, NOBODY)]),
    "a session under a request": ("lost session", [*HELD, append(4, 3, seen(1, 2), answer=Answer.LOST)]),
    "a session by a login": ("lost session", [*LOGGED_IN, at(5, Act.READ, NOBODY, presented="b")]),
    "an item by a renewal": ("lost item", [*RENEWED, at(5, Act.READ, seen(1), presented="b")]),
    "the values by a login": ("lost session", [*LOGGED_IN, at(5, Act.READ, Seen(""), presented="b")]),
    "the values after a login in doubt was settled": (
        "lost session",
        [
            *IN_DOUBT,
            at(5, Act.LOGIN, seen(1, 2), issued="b"),
            at(6, Act.READ, seen(1, 2), presented="b"),
            at(7, Act.READ, Seen(""), presented="b"),
        ],
    ),
    "twice": ("doubled", [*HELD, at(4, Act.READ, seen(1, 2, 2))]),
    "twice after another try": ("doubled", [*HELD, DOUBTFUL, append(5, 3, seen(1, 2)), at(6, Act.READ, seen(1, 3, 3))]),
    "another order": ("out of order", [*HELD, at(4, Act.READ, seen(2, 1))]),
    "nobody wrote it": ("never written", [*HELD, at(4, Act.READ, seen(1, 2, 3))]),
    "refused, and stored": (
        "never written",
        [*HELD, append(3, 3, None, answer=Answer.REFUSED), at(5, Act.READ, seen(1, 2, 3))],
    ),
    "logged out, and back": ("revived", [*LOGGED_OUT, at(5, Act.PROBE, seen(1, 2))]),
    "revoked, and back": (
        "revived",
        [*LOGGED_IN, at(5, Act.REVOKE, presented="b"), at(6, Act.READ, seen(1, 2), presented="b")],
    ),
    "the old id after a login": ("revived", [*LOGGED_IN, at(5, Act.PROBE, seen(1, 2))]),
    "the old id after the grace of a renewal": ("revived", [*RENEWED, at(9, Act.PROBE, seen(1, 2))]),
    "what had been gone": ("revived", [*LOGGED_OUT, at(5, Act.PROBE, NOBODY), at(6, Act.PROBE, seen(1))]),
    "a secret of another": ("crossed", [*HELD, at(4, Act.READ, Seen("bert/1/secret", (ITEMS[0], ITEMS[1])))]),
    "an item of another": ("crossed", [*HELD, at(4, Act.READ, Seen(SECRET, (*ITEMS[:2], "bert/7")))]),
    "another session behind an old id": ("crossed", [*RENEWED, at(4, Act.PROBE, Seen("bert/1/secret"))]),
    "an own secret of another time": ("crossed, or revived", [*HELD, at(4, Act.READ, Seen("anna/0/secret"))]),
    "an error of another kind": (
        "another error",
        [*HELD, at(4, Act.READ, None, answer=Answer.REFUSED, error=ConnectionError())],
    ),
}


@pytest.mark.parametrize("visits", GOOD.values(), ids=GOOD)
def test_what_may_happen_is_accepted(visits: list[Visit]) -> None:
    assert judge(visits, grace=2).wrong == []


@pytest.mark.parametrize(("what", "visits"), WRONG.values(), ids=WRONG)
def test_a_forged_history_is_rejected(what: str, visits: list[Visit]) -> None:
    (wrong, *_) = judge(visits, grace=2).wrong
    assert wrong.startswith(what)


def test_a_declared_loss_forgives_what_was_acknowledged_in_its_time_and_nothing_else() -> None:
    lost = [*HELD, at(4, Act.READ, seen(1))]
    assert judge(lost, [Loss(2.1, 2.2)]).counts["items lost as declared"] == 1
    assert judge(lost, [Loss(2.1, 2.2)]).wrong == []
    assert judge(lost, [Loss(2.6, 9)]).wrong
    assert judge(lost, [Loss(0, 1.9)]).wrong
    assert judge(lost, [Loss(0, 9, share=lambda id: id != "a")]).wrong
    gone = [*HELD, at(4, Act.READ, NOBODY)]
    assert judge(gone, [Loss(0, 3)]).counts["sessions lost as declared"] == 1
    assert judge(gone, [Loss(0, 1.9)]).wrong, "it was written to after the fault"
    assert judge(gone, [Loss(2, 3)]).wrong, "it had begun before the fault"


def test_a_loss_that_does_not_declare_it_revives_nothing() -> None:
    back = [*LOGGED_OUT, at(5, Act.PROBE, seen(1, 2))]
    assert judge(back, [Loss(0, 9)]).wrong
    assert judge(back, [Loss(0, 9, revives=True)]).counts["ends undone as declared"] == 1
    assert judge(back, [Loss(0, 2, revives=True)]).wrong


def test_a_late_call_is_rejected_but_not_for_the_time_in_which_the_whole_process_stood_still() -> None:
    crowd: Any = Threads([MemoryStore()], 1, PLAN, 1)
    crowd.rest()
    crowd.calls.append(Call("Load", Span(5, 7), failed=True))
    found = People([crowd], stalls := Stalls())
    stalls.close()
    late = ["late: thread Load took 2.00 s of 1 s"]
    assert found.verdict(timeout=1, margin=0.5).wrong == late
    assert not found.verdict(timeout=1, margin=1.5).wrong
    stalls.gaps[:] = [Span(4, 5.3), Span(6.9, 9)]
    assert found.verdict(timeout=1, margin=0.5).wrong == late, "0.4 s of it are forgiven"
    stalls.gaps.append(Span(6, 6.2))
    assert not found.verdict(timeout=1, margin=0.5).wrong


def keep_the_interpreter(seconds: float) -> None:
    """Let no other thread run meanwhile, as a process that is stopped; a PyDLL is called without giving the GIL up."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


@pytest.mark.parametrize("loop", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize(("wait", "late"), [(sleep, True), (keep_the_interpreter, False)])
def test_a_store_that_hangs_is_late_and_one_in_a_process_that_stands_still_is_not(
    wait: Callable[[float], None], late: bool, loop: bool
) -> None:
    hung = Event()

    class Hangs(MemoryStore):
        def load(self, key: bytes) -> Record | None:
            if not hung.is_set():
                hung.set()
                wait(1.0)
            return super().load(key)

    with people(Hangs, count=4, colours=[Tasks if loop else Threads]) as crowd:
        crowd.all_served()
        until(hung.is_set, "somebody has asked")
        crowd.rest()
        wrong = crowd.verdict(timeout=0.2, margin=0.3).wrong
    assert crowd.slowest() >= 1.0, "both took as long by the clock"
    assert bool(wrong) is late, wrong
    assert all(text.startswith("late: ") for text in wrong)


# -- crowds on stores ------------------------------------------------------------------------------------------------


class Sometimes(MemoryStore):
    """A store that is broken in one of twenty calls, or as often as *share* says."""

    share = 0.05

    def __init__(self) -> None:
        super().__init__()
        self._chance, self._guard = Random(7), Lock()

    def is_time(self) -> bool:
        with self._guard:
            return self._chance.random() < self.share


class Forgets(Sometimes):
    """Acknowledges writes that it does not do."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        return Written.DONE if self.is_time() else super().update(key, record, base)


class Keeps(Sometimes):
    """Acknowledges ends that it does not do."""

    share = 0.5

    def delete(self, key: bytes, base: int | None = None) -> Written:
        return Written.DONE if self.is_time() else super().delete(key, base)


class KeepsOldIds(Sometimes):
    """Does not write tombstones."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        return Written.DONE if record.retired else super().update(key, record, base)


class Doubles(Sometimes):
    """Sends a write once more, as a client does that retries what may have been executed."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        answer = super().update(key, record, base)
        return super().update(key, record, base) if self.is_time() else answer


class Crosses(Sometimes):
    """Gives a reply to another request, as after CVE-2023-28858."""

    last: Record | None = None

    def load(self, key: bytes) -> Record | None:
        record, self.last = super().load(key), self.last
        if self.last and self.is_time():
            return self.last
        self.last = record or self.last
        return record


class Drops(Sometimes):
    """Loses sessions, and says that there was none."""

    def load(self, key: bytes) -> Record | None:
        return None if self.is_time() else super().load(key)


class Overwrites(Sometimes):
    """Does not compare versions, and executes writes late that it called unavailable."""

    share = 0.2

    def __init__(self) -> None:
        super().__init__()
        self._late: SimpleQueue[tuple[bytes, Record]] = SimpleQueue()

    def update(self, key: bytes, record: Record, base: int) -> Written:
        if self._late.qsize() > 3:  # so that its visitor has gone on meanwhile
            old, earlier = self._late.get()
            stored = self.load(old)
            if stored and not stored.retired:
                super().update(old, earlier, stored.version)
        if self.is_time():
            self._late.put((key, record))
            raise StoreUnavailable("no answer in time")
        return super().update(key, record, base)


class Stumbles(Sometimes):
    """Raises the driver's own error."""

    def load(self, key: bytes) -> Record | None:
        if self.is_time():
            raise ConnectionResetError("reset by peer")
        return super().load(key)


def lived(store: Callable[[], MemoryStore]) -> Verdict:
    """Return the verdict on what a crowd saw on *store* in twelve hundred visits, and in their looks at the end."""
    with people(store, count=8) as crowd:
        until(lambda: len(crowd.visits()) > 1200, "they have seen enough", 60)
        crowd.rest()
        return crowd.verdict(timeout=60)


@pytest.mark.slow
def test_a_crowd_on_a_sound_store_finds_nothing_wrong() -> None:
    found = lived(MemoryStore)
    assert found.wrong == []
    assert {act for act in Act if found.counts[f"done of {act}"]} == set(Act)


BROKEN = {
    Forgets: ("lost item",),
    Keeps: ("revived",),
    KeepsOldIds: ("revived",),
    Doubles: ("doubled", "lost session"),
    Crosses: ("crossed",),
    Drops: ("lost session",),
    Overwrites: ("lost item", "doubled", "never written"),
    Stumbles: ("another error",),
}


@pytest.mark.slow
@pytest.mark.parametrize(("store", "words"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_crowd_on_a_broken_store_finds_it_out(store: type[MemoryStore], words: tuple[str, ...]) -> None:
    found = lived(store)
    assert any(wrong.startswith(words) for wrong in found.wrong), found.wrong
