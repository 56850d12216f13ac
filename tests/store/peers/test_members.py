"""``members=`` over real TLS: whose authority also signs for other machines says which of them are hosts of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.servers.certificates import Authority
from tests.servers.process import HeldPort
from tests.store.peers.wires import HELLO, LOOPS, directories, run, until

from sojourn.cluster import wire
from sojourn.cluster.node import Node
from sojourn.cluster.settings import Settings, port_of
from sojourn.cluster.tables import View
from sojourn.core.capability import Finding
from sojourn.crypto.certificates import Authority as ClusterAuthority
from sojourn.store.peers import channel
from sojourn.store.peers.engine import Engine
from sojourn.store.peers.examination import _of_cluster
from sojourn.testing.dict_tables import DictTables

OURS, THEIRS = "127.0.0.1", "localhost"  # two names of this machine: a host of the cluster, another machine


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Machines:
    """Hosts with real nodes and real certificates of one authority."""

    def __init__(self, path: Path) -> None:
        self.path, self.authority, self._ports = path, Authority(), AsyncExitStack()

    @asynccontextmanager
    async def host(self, host: str, seeds: tuple[str, ...] = (), **said: tuple[str, ...]) -> AsyncIterator[Engine]:
        directory = self.path / f"host{len(list(self.path.iterdir()))}"
        self.authority.host(directory, host)
        port = HeldPort()
        name = f"{host}:{port.number}"
        settings = Settings(seeds=seeds, me=name, listen=name, path=str(directory), tls=str(directory), **said)  # type: ignore[arg-type]
        engine = Engine(settings, Node(settings, DictTables(random=os.urandom), time.monotonic(), os.urandom))
        with channel.listen(directory) as sock:
            task = asyncio.create_task(engine.serve(sock))
            await engine.ready.wait()
            try:
                yield engine
            finally:
                engine.stop()
                await task
                port.close()


def sees(one: Engine, other: Engine) -> str | None:
    return one.node.host.members.state(other.settings.me)


def test_a_certificate_of_the_authority_is_not_enough_where_members_are_named(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sojourn.cluster")

    async def story(path: Path) -> None:
        machines = Machines(path)
        async with machines.host(OURS, members=(OURS,)) as one:
            name = one.settings.me
            async with machines.host(OURS, (name,), members=(OURS,)) as two, machines.host(THEIRS, (name,)) as other:
                await until(lambda: "does not let this host in" in caplog.text, "the stranger is told")
                await until(lambda: sees(one, two) == sees(two, one) == "alive", "the hosts have met")
                assert sees(one, other) is sees(two, other) is sees(other, one) is None
                assert not other.node.host.peers

    with directories() as path:
        run(story, path, loop=loop)
    words = [record.getMessage() for record in caplog.records]
    assert any("is not let in: 127.0.0.1:" in one and "certificate's localhost" in one for one in words), words
    assert any("does not let this host in: 127.0.0.1:" in one and "has members=" in one for one in words), words


def test_without_members_it_is_enough_as_it_was(loop: str) -> None:
    async def story(path: Path) -> None:
        machines = Machines(path)
        async with machines.host(OURS) as one, machines.host(THEIRS, (one.settings.me,)) as other:
            await until(lambda: sees(one, other) == sees(other, one) == "alive", "they have met")

    with directories() as path:
        run(story, path, loop=loop)


def test_who_a_host_is_says_its_certificate_and_no_field(loop: str) -> None:
    """The hello names another host than the certificate."""

    async def story(path: Path) -> None:
        machines = Machines(path)
        async with machines.host(OURS) as one:
            machines.authority.host(path / "thief", "thief.example")
            context = ssl.create_default_context(cafile=path / "thief" / "ca.pem")
            context.load_cert_chain(path / "thief" / "host.pem", path / "thief" / "host.key")
            reader, writer = await asyncio.open_connection(OURS, port_of(one.settings.me), ssl=context)
            writer.write(wire.to_frame(HELLO))
            answer = await reader.read()
            writer.close()
            (refused,) = wire.Frames().feed(answer)
            assert refused == wire.Refused("the certificate is not one of 127.0.0.1:1")
            assert one.node.host.members.state(HELLO.name) is None

    with directories() as path:
        run(story, path, loop=loop)


# -- what the doctor says --------------------------------------------------------------------------------------------


def found(tls: Path | None, **said: tuple[str, ...]) -> list[Finding]:
    settings = Settings(seeds=(), me="a:1", listen="a:1", path="/nowhere", tls=str(tls) if tls else None, **said)  # type: ignore[arg-type]
    return [one for one in _of_cluster(settings, View((), True), None) if "may join" in one.what]


def test_an_authority_that_may_sign_for_others_is_a_finding_until_members_are_named(tmp_path: Path) -> None:
    Authority("Shop Corporation CA").host(tmp_path, "a")
    (finding,) = found(tmp_path)
    assert finding.what == "Every host with a certificate of 'Shop Corporation CA' may join this cluster."
    assert "members=" in finding.cure
    assert found(tmp_path, members=("a",)) == []


def test_an_authority_made_for_the_cluster_is_none(tmp_path: Path) -> None:
    authority = ClusterAuthority(tmp_path)
    authority.create(time.time())
    host = authority.issue("a", time.time()).directory
    assert found(host) == []
    other = tmp_path / "other"
    Authority("Another").host(other, "a")
    (host / "ca.pem").write_bytes((host / "ca.pem").read_bytes() + (other / "ca.pem").read_bytes())
    assert [one.what for one in found(host)] == ["Every host with a certificate of 'Another' may join this cluster."]


def test_where_there_is_nothing_to_be_read_there_is_nothing_to_be_said(tmp_path: Path) -> None:
    assert found(None) == found(tmp_path) == []
