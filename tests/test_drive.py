"""The two drivers perform every operation, and a store that waits never reaches an event loop."""

from __future__ import annotations

import asyncio

import pytest

from sojourn import ConfigurationError, StoreUnavailable
from sojourn.core.ops import Create, Delete, Flow, Load, Op, Touch, Update, Written
from sojourn.core.record import Record
from sojourn.drive import arun, as_async, run
from sojourn.testing import ScriptedStore

KEY = b"k" * 32
RECORD = Record({}, 0, 0, 1)
SCRIPT = (
    (Load, RECORD),
    (Create, Written.EXISTS),
    (Update, Written.STALE),
    (Touch, Written.GONE),
    (Delete, Written.DONE),
)
OPS: list[Op] = [Load(KEY), Create(KEY, RECORD), Update(KEY, RECORD, 1), Touch(KEY, 1, 2, 3), Delete(KEY, 4)]


def every_operation() -> Flow[list[object]]:
    replies = []
    for op in OPS:
        replies.append((yield op))
    return replies


def test_both_drivers_ask_the_same_and_hand_back_the_answers() -> None:
    blocking, awaited = ScriptedStore(*SCRIPT), ScriptedStore(*SCRIPT)
    expected = [answer for _, answer in SCRIPT]
    assert run(every_operation(), blocking) == expected
    assert asyncio.run(arun(every_operation(), as_async(awaited))) == expected
    assert blocking.asked == awaited.asked == OPS


def test_an_exception_of_the_store_ends_the_run() -> None:
    for drive in (run, lambda flow, store: asyncio.run(arun(flow, as_async(store)))):
        with pytest.raises(StoreUnavailable):
            drive(every_operation(), ScriptedStore((Load, StoreUnavailable("down"))))


def test_a_store_that_waits_is_kept_off_the_loop() -> None:
    store = ScriptedStore()
    store.waits = True
    with pytest.raises(ConfigurationError, match="ScriptedStore blocks"):
        as_async(store)
