"""The files whose seconds are known exist, and go first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.order import SECONDS, pytest_collection_modifyitems


def test_each_file_that_is_named_exists() -> None:
    assert [name for name in SECONDS if not (Path(__file__).parent / name).is_file()] == []


def test_long_files_go_first_and_the_others_keep_their_places() -> None:
    longest, shorter = max(SECONDS, key=SECONDS.__getitem__), min(SECONDS, key=SECONDS.__getitem__)
    files = ["test_b.py", shorter, "test_a.py", longest]
    items: list[Any] = [SimpleNamespace(nodeid=f"tests/{file}::test_{number}") for file in files for number in "12"]
    before, spread = [item.nodeid for item in items], SimpleNamespace(workerinput={})
    alone: Any = SimpleNamespace()
    pytest_collection_modifyitems(alone, items)
    assert [item.nodeid for item in items] == before
    pytest_collection_modifyitems(spread, items)  # type: ignore[arg-type]
    expected = [longest, shorter, "test_b.py", "test_a.py"]
    assert [item.nodeid for item in items] == [f"tests/{file}::test_{number}" for file in expected for number in "12"]
