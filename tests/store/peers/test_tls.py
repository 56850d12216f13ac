"""Who comes in where there is TLS: hosts with a certificate that is theirs, by the cluster's authority; nobody else."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.servers.certificates import Authority
from tests.store.peers.wires import HELLO, LOOPS, Running, connected, directories, is_closed, run, running, until

from sojourn.cluster import wire
from sojourn.errors import ConfigurationError
from sojourn.store.peers import engine as engines
from sojourn.store.tls import HostCertificates, identities

NAME = "127.0.0.1"
PAST = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)


class Town:
    """An authority, a host of it and its files."""

    def __init__(self, path: Path) -> None:
        self.path, self.authority = path, Authority()
        self.own = path / "own"
        self.authority.host(self.own, NAME, "app1.example")

    def host(self, *names: str, by: Authority | None = None, **more: datetime.datetime) -> tuple[Path, int]:
        directory = self.path / f"host{len(list(self.path.iterdir()))}"
        serial = (by or self.authority).host(directory, *(names or (NAME,)), **more)
        (directory / "ca.pem").write_bytes((self.own / "ca.pem").read_bytes())
        return directory, serial


@pytest.fixture
def town() -> Iterator[Town]:
    with directories() as path:
        yield Town(path)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def showing(directory: Path) -> ssl.SSLContext:
    """Return a client that trusts everybody and shows the certificate in *directory*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if (directory / "host.pem").exists():
        context.load_cert_chain(directory / "host.pem", directory / "host.key")
    return context


async def turned_away(one: Running, context: ssl.SSLContext) -> bool:
    """Tell whether the engine lets nobody with *context* say anything to its node."""
    try:
        reader, writer = await connected(one, context)
    except OSError:
        return not one.node.told("accepted")
    writer.write(wire.to_frame(HELLO))
    closed = await is_closed(reader)
    writer.close()
    return closed and not one.node.told("accepted") and not one.node.told("received")


def test_hosts_with_certificates_greet_and_each_knows_who_the_other_is(loop: str, town: Town) -> None:
    other, _ = town.host("127.0.0.1", "App2.Example", "::1")

    async def story() -> None:
        async with running(town.own) as one, running(other) as two:
            two.dial(one.engine.settings.me)
            await until(lambda: two.node.told("received"), "both have said hello")
            (_, names), *_ = one.node.told("accepted")
            assert names == {"127.0.0.1", "app2.example", "::1"}
            (link,) = one.engine.links.values()
            assert link.transport.get_extra_info("ssl_object").version() == "TLSv1.3"

    run(story, loop=loop)


@pytest.mark.parametrize("case", ["missing", "of another authority", "expired", "not yet valid", "revoked"])
def test_a_host_with_the_wrong_certificate_is_turned_away(loop: str, town: Town, case: str) -> None:
    if case == "missing":
        wrong = town.path
    elif case == "of another authority":
        wrong, _ = town.host(by=Authority())
    elif case == "expired":
        wrong, _ = town.host(since=PAST, ends=PAST + datetime.timedelta(days=1))
    elif case == "not yet valid":
        begins = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        wrong, _ = town.host(since=begins, ends=begins + datetime.timedelta(hours=1))
    else:
        wrong, serial = town.host()
        town.authority.revoke(town.own, serial)

    async def story() -> None:
        async with running(town.own) as one:
            assert await turned_away(one, showing(wrong))

    run(story, loop=loop)


def test_an_older_protocol_than_tls_1_3_is_turned_away(loop: str, town: Town) -> None:
    other, _ = town.host()
    context = showing(other)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def story() -> None:
        async with running(town.own) as one:
            assert await turned_away(one, context)

    run(story, loop=loop)


def test_plaintext_is_turned_away(loop: str, town: Town) -> None:
    async def story() -> None:
        async with running(town.own) as one:
            reader, writer = await connected(one)
            writer.write(wire.to_frame(HELLO))
            assert await is_closed(reader)
            assert one.node.told("accepted") == one.node.told("received") == []
            writer.close()

    run(story, loop=loop)


def test_who_never_shakes_hands_is_let_go(loop: str, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "GREETING", 0.1)

    async def story() -> None:
        async with running(town.own) as one:
            reader, writer = await connected(one)
            writer.write(b"\x16\x03\x01")  # the beginning of a handshake
            assert await is_closed(reader)
            assert one.node.told("accepted") == []
            await until(lambda: not one.engine._greeting, "it is forgotten")
            writer.close()

    run(story, loop=loop)


def test_a_dialled_host_that_is_another_is_unreachable(loop: str, town: Town, caplog: pytest.LogCaptureFixture) -> None:
    other, _ = town.host("app2.example")

    async def story() -> None:
        async with running(town.own) as one, running(town.own) as two:
            two.engine.certificates = HostCertificates(other, "app2.example")
            one.dial(two.engine.settings.me)
            await until(lambda: one.node.told("unreachable"), "it is refused")
            assert one.node.told("dialed") == []

    run(story, loop=loop)
    assert any("certificate is refused: IP address mismatch" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("case", ["of another authority", "expired", "revoked"])
def test_a_dialled_host_with_the_wrong_certificate_is_told_nothing(loop: str, town: Town, case: str) -> None:
    """Not even a hello: that names all hosts."""
    if case == "of another authority":
        wrong, _ = town.host(by=Authority())
    elif case == "expired":
        wrong, _ = town.host(since=PAST, ends=PAST + datetime.timedelta(days=1))
    else:
        wrong, serial = town.host()
        town.authority.revoke(town.own, serial)
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    async def story() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(wrong / "host.pem", wrong / "host.key")
        server = await asyncio.start_server(serve, NAME, 0, ssl=context)
        async with running(town.own) as one, server:
            one.dial(f"{NAME}:{server.sockets[0].getsockname()[1]}")
            await until(lambda: one.node.told("unreachable"), "it is refused")
            assert one.node.told("dialed") == []
        assert not any(heard)

    run(story, loop=loop)


def test_recorded_traffic_that_is_sent_once_more_reaches_nobody(loop: str, town: Town) -> None:
    """TLS 1.3 without resumption: what one stream carried is noise in another."""
    other, _ = town.host()
    recorded = bytearray()

    async def story() -> None:
        async with running(town.own) as one, running(other) as two:

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, to = await connected(one)
                back = asyncio.create_task(pipe(there, writer, bytearray()))
                await pipe(reader, to, recorded)
                await back

            server = await asyncio.start_server(relay, NAME, 0)
            async with server:
                two.dial(f"{NAME}:{server.sockets[0].getsockname()[1]}")
                await until(lambda: two.node.told("received"), "both have said hello")
                link = two.node.told("dialed")[0][0]
                two.send(link, wire.Goodbye(True))
                await until(lambda: len(one.node.told("received")) == 2, "the goodbye is there")
                two.engine.links[link].transport.abort()
                await until(lambda: one.node.told("closed"), "the stream has ended")
            one.node.events.clear()
            for data in (recorded, recorded + recorded, recorded[len(recorded) // 2 :]):
                reader, writer = await connected(one)
                writer.write(data)
                writer.write_eof()
                assert await is_closed(reader)
                writer.close()
            assert one.node.told("accepted") == one.node.told("received") == []

    run(story, loop=loop)


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copy: bytearray) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            copy += data
            writer.write(data)
            await writer.drain()
    writer.close()


def test_a_dialled_host_without_tls_is_unreachable(loop: str, town: Town) -> None:
    async def story() -> None:
        async with running(town.own) as one, running() as plain:
            one.dial(plain.engine.settings.me)
            await until(lambda: one.node.told("unreachable"), "it is refused")
            assert one.node.told("dialed") == plain.node.told("received") == []

    run(story, loop=loop)


# -- certificates change while everything runs -----------------------------------------------------------------------


def test_new_certificates_are_used_for_the_next_stream_and_old_streams_stay(loop: str, town: Town) -> None:
    other, _ = town.host()

    async def story() -> None:
        async with running(town.own) as one, running(other) as two:
            two.dial(one.engine.settings.me)
            await until(lambda: two.node.told("received"), "both have said hello")
            before = one.engine.links[one.node.told("accepted")[0][0]]
            town.authority.host(other, NAME, "renewed.example")
            two.dial(one.engine.settings.me)
            await until(lambda: len(one.node.told("accepted")) == 2, "there is a second stream")
            assert "renewed.example" in one.node.told("accepted")[1][1]
            two.engine._look_at_certificates()
            assert not before.closing
            assert two.node.told("closed") == []

    run(story, loop=loop)


def test_half_written_certificates_cut_nobody_off(loop: str, town: Town, caplog: pytest.LogCaptureFixture) -> None:
    other, _ = town.host()

    async def story() -> None:
        async with running(town.own) as one, running(other) as two:
            (other / "host.key").write_bytes(b"-----BEGIN")
            two.dial(one.engine.settings.me)
            await until(lambda: two.node.told("received"), "both have said hello")

    run(story, loop=loop)
    assert any("stay in use" in record.getMessage() for record in caplog.records)


def test_a_host_that_is_revoked_is_cut_off_at_once_and_the_others_are_not(
    loop: str, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HOUSEKEEPING", 0.05)
    bad, serial = town.host("127.0.0.1", "bad.example")
    good, _ = town.host("127.0.0.1", "good.example")

    async def story() -> None:
        async with running(town.own) as one, running(bad) as two, running(good) as three:
            two.dial(one.engine.settings.me)
            three.dial(one.engine.settings.me)
            await until(lambda: two.node.told("received") and three.node.told("received"), "all have said hello")
            town.authority.revoke(town.own, serial)
            await until(lambda: two.node.told("closed"), "it is cut off")
            assert three.node.told("closed") == []
            assert len(one.node.told("closed")) == 1
            two.dial(one.engine.settings.me)
            await until(lambda: len(two.node.told("closed")) + len(two.node.told("unreachable")) == 2, "it is refused")
            assert len(one.node.told("accepted")) == 2

    run(story, loop=loop)


def test_a_stream_ends_with_its_certificate(loop: str, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "HOUSEKEEPING", 0.05)
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
    other, _ = town.host(ends=ends)

    async def story() -> None:
        async with running(town.own) as one, running(other) as two:
            two.dial(one.engine.settings.me)
            await until(lambda: two.node.told("received"), "both have said hello")
            await until(lambda: one.node.told("closed"), "it has ended")

    run(story, loop=loop)


# -- what is wrong at the start is said at the start -----------------------------------------------------------------


@pytest.mark.parametrize("case", ["no files", "another name", "another key", "another authority", "expired"])
def test_certificates_that_cannot_work_are_an_error_that_names_files_and_host(town: Town, case: str) -> None:
    directory = town.own
    if case == "no files":
        directory = town.path / "nothing"
    elif case == "another name":
        directory, _ = town.host("app9.example")
    elif case == "another key":
        (directory / "host.key").write_bytes((town.host()[0] / "host.key").read_bytes())
    elif case == "another authority":
        directory, _ = town.host(by=Authority("others"))
    else:
        directory, _ = town.host(since=PAST, ends=PAST + datetime.timedelta(days=1))
    with pytest.raises(ConfigurationError, match=rf"tls={directory}: .* this is {NAME}"):
        HostCertificates(directory, NAME)


def test_identities_are_compared_in_one_spelling() -> None:
    names = (("DNS", "App1.Example"), ("IP Address", "0:0:0:0:0:0:0:1"), ("email", "a@b"), ("IP Address", "10.0.0.1"))
    assert identities({"subjectAltName": names}) == {"app1.example", "::1", "10.0.0.1"}
    assert identities({}) == identities(None) == frozenset()


def test_a_serial_number_of_any_length_is_found_in_the_list(town: Town) -> None:
    certificates = HostCertificates(town.own, NAME)
    serials = [0x80, 0x7F, 0xFF00, (1 << 150) + 7, (1 << 159) - 1]
    assert not any(certificates.may_be_revoked({"serialNumber": f"{serial:X}"}) for serial in serials)
    town.authority.revoke(town.own, *serials)
    assert all(certificates.may_be_revoked({"serialNumber": f"{serial:X}"}) for serial in serials)
    assert not certificates.may_be_revoked({"serialNumber": f"{(1 << 150) + 8:X}"})
