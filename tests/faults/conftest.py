"""What holds in each test of faults: no record was ever found damaged, or under another key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _nothing_foreign_in_the_log(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """A reply to another request does not open, since it is bound to its key; the store's log would say so."""
    yield
    if "forging" not in request.fixturenames:
        assert not [record for record in caplog.get_records("call") if "unreadable" in record.getMessage()]


@pytest.fixture
def forging() -> None:
    """For tests that forge records themselves."""


@pytest.fixture(params=[False, True], ids=["blocking", "async"])
def loop(request: pytest.FixtureRequest) -> bool:
    """Whether the store is called on an event loop."""
    return bool(request.param)
