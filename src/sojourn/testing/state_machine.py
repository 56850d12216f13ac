"""A Hypothesis machine that holds a store against a dictionary, in any order of operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sojourn.core.ops import Create, Delete, Load, Touch, Update, Written
from sojourn.core.record import Record
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import StoreHarness, a_key

KEYS = st.integers(0, 3).map(a_key)
TIMES = st.integers(0, 10_000_000).map(lambda milliseconds: START + milliseconds / 1000)
RECORDS = st.builds(
    Record,
    values=st.dictionaries(st.text(max_size=4), st.binary(max_size=8), max_size=3),
    created_at=TIMES,
    accessed_at=TIMES,
    expires_at=TIMES,
    version=st.integers(1, 4),
    principal=st.none() | st.text(max_size=3),
    cookie_age=st.none() | st.integers(1, 9),
    retired=st.booleans(),
    successor=st.none() | KEYS,
    seen=st.just(b""),
)
BASES = st.integers(1, 4)

EXAMPLES = 60
STEPS = 40


def check_against_model(make: Callable[[], AbstractContextManager[StoreHarness]]) -> None:
    """Run random operations on fresh stores of *make* and on a dictionary; raise AssertionError where they differ."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.context = make()
            self.store = self.context.__enter__()
            self.model: dict[bytes, Record] = {}
            self.swept = START

        def teardown(self) -> None:
            self.context.__exit__(None, None, None)

        @rule(key=KEYS, record=RECORDS)
        def create(self, key: bytes, record: Record) -> None:
            self._bury_at_create(record.accessed_at)
            expected = Written.EXISTS if self._may_hold(key) else Written.DONE
            answer = self.store.do(Create(key, record))
            if answer is Written.DONE:
                # A dead record may have been swept away by an earlier create, or not: both are right.
                assert expected is Written.DONE or self._is_dead(key)
                self.model[key] = record
            else:
                assert answer is expected

        @rule(key=KEYS, record=RECORDS, base=BASES)
        def update(self, key: bytes, record: Record, base: int) -> None:
            after = record._replace(version=base + 1)
            if self._answers(key, base, self.store.do(Update(key, after, base))):
                self.model[key] = after

        @rule(key=KEYS, accessed_at=TIMES, expires_at=TIMES, base=BASES)
        def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> None:
            if self._answers(key, base, self.store.do(Touch(key, accessed_at, expires_at, base))):
                self.model[key] = self.model[key]._replace(accessed_at=accessed_at, expires_at=expires_at)

        @rule(key=KEYS, base=st.none() | BASES)
        def delete(self, key: bytes, base: int | None) -> None:
            if self._answers(key, base, self.store.do(Delete(key, base))):
                del self.model[key]

        @rule(now=TIMES)
        def sweep(self, now: float) -> None:
            self.store.sweep(now)
            self.swept = max(self.swept, now)

        @invariant()
        def every_key_loads_what_the_model_holds(self) -> None:
            for number in range(4):
                key = a_key(number)
                found = self.store.do(Load(key))
                assert found == self.model.get(key) or (found is None and self._is_dead(key))
                if found is None:
                    self.model.pop(key, None)

        def _bury_at_create(self, now: float) -> None:
            self.swept = max(self.swept, now)

        def _may_hold(self, key: bytes) -> bool:
            return key in self.model

        def _is_dead(self, key: bytes) -> bool:
            """Tell whether a sweep may have taken the record: it was dead at a time that the store was told."""
            return key in self.model and self.model[key].expires_at <= self.swept

        def _answers(self, key: bytes, base: int | None, answer: Written) -> bool:
            """Check a conditional write's *answer*, and tell whether it was done."""
            if key not in self.model:
                assert answer is Written.GONE
            elif base is not None and self.model[key].version != base:
                assert answer is Written.STALE
            else:
                assert answer is Written.DONE
            return answer is Written.DONE

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
