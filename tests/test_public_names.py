"""What `import sojourn` brings, and what it must not."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import sojourn

HEAVY = {
    "lmdb", "flask", "werkzeug", "starlette", "fastapi", "uvicorn", "redis", "sqlalchemy", "cryptography", "asyncio",
    "http.cookies", "pickle", "importlib.metadata",
}  # fmt: skip


def test_public_names_are_on_one_screen_and_documented() -> None:
    assert len(sojourn.__all__) == len(set(sojourn.__all__)) <= 25
    for name in sojourn.__all__:
        thing = getattr(sojourn, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sojourn.nonsense
    assert dir(sojourn) == sorted(sojourn.__all__)


def test_import_brings_no_driver_and_no_framework() -> None:
    names = ", ".join(sojourn.__all__)
    script = f"import sys; before = set(sys.modules); from sojourn import {names}; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "sojourn.manager" in loaded
    assert HEAVY & set(loaded) == set()


def test_every_exception_is_in_one_tree() -> None:
    from sojourn import errors

    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, Exception):
            assert issubclass(thing, errors.SojournError), name
            assert inspect.getdoc(thing)
