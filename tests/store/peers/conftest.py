"""A worker's store over a scripted storage, with agents that the test writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.store.peers.scripted import ME, OTHER, Agent, Script, ScriptedTables

from sojourn.cluster.settings import Settings
from sojourn.store.peers import blocking, loop
from sojourn.store.peers.blocking import PeersStore


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a host whose agent nobody starts but the test."""
    for module in (blocking, loop):
        monkeypatch.setattr(module, "start", lambda directory, url: False)
    return Settings(seeds=(ME, OTHER), me=ME, listen=ME, path=str(tmp_path), wait=0.2, copies=1, acks=1, alone="accept")


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[[Script], Agent]]:
    made: list[Agent] = []

    def make(script: Script) -> Agent:
        made.append(Agent(tmp_path, script))
        return made[-1]

    yield make
    for agent in made:
        agent.stop()


@pytest.fixture
def tables() -> Any:
    return ScriptedTables()


@pytest.fixture
def store(settings: Settings, tables: Any) -> Iterator[PeersStore]:
    store = PeersStore(settings, tables)
    yield store
    store.close()
