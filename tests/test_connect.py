"""connect: one string decides where sessions live."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from sojourn import ConfigurationError
from sojourn.connect import ENTRY_POINTS, connect, schemes, without_password
from sojourn.store.local import LocalStore
from sojourn.store.memory import MemoryStore


def test_a_scheme_chooses_the_store(tmp_path: object) -> None:
    assert isinstance(connect("memory:"), MemoryStore)
    store = connect(f"local:{tmp_path}/sessions?sync=no&max_size=8MiB")
    assert isinstance(store, LocalStore)
    assert (store.sync, store.max_size) == (False, 8 << 20)


@pytest.mark.parametrize("url", ["", "memory", "/var/lib/sessions", "nosuch:", "LOCAL:"])
def test_an_unknown_scheme_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"known schemes: local:, memcached\+unix:"):
        connect(url)


def test_a_url_is_shown_without_its_password() -> None:
    assert without_password("redis://shop:s3cr3t@cache:6379/0") == "redis://…@cache:6379/0"
    assert without_password("redis://:s3/cr@t@cache") == "redis://…@cache"
    assert without_password("local:///var/lib/shop") == "local:///var/lib/shop"


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    monkeypatch.delitem(sys.modules, "sojourn.store.local")
    with pytest.raises(ConfigurationError, match=r"pip install 'sojourn\[local\]'"):
        connect("local:")


def test_other_packages_add_schemes_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "carrier-pigeon"

        def load(self) -> object:
            return lambda url: MemoryStore()

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()] if group == ENTRY_POINTS else [])
    assert "carrier-pigeon:" in schemes()
    assert isinstance(connect("carrier-pigeon://loft"), MemoryStore)
