"""Hosts that come back empty, are restarted in turn, get other certificates, join and leave, while visitors work."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.faults.peers.conftest import LONG
from tests.faults.peers.hosts import Hosts
from tests.faults.peers.judging import assert_kept, unforced
from tests.faults.peers.visitors import crowd
from tests.faults.peers.visits import Request
from tests.servers.network import Network

pytestmark = pytest.mark.slow


def test_a_host_with_an_empty_disk_serves_every_session_from_its_first_second(hosts: Hosts) -> None:
    """It asks the others for what it lacks: each session opens there, before it has caught up and after."""
    count = 10_000 if LONG else 500
    tokens = [hosts[number % 3].ask(Request("write", number, None, {"a": number})).token for number in range(count)]
    hosts.converge()
    hosts[0].wipe()
    hosts[0].launch()
    hosts[0].wait()
    begun = time.monotonic()
    looks = range(0, count, count // 100)
    shown = [hosts[0].ask(Request("read", number, tokens[number])) for number in looks]
    first = time.monotonic() - begun
    assert [look.reads for look in shown] == [{"a": number} for number in looks], [
        look for look in shown if not look.ok
    ][:3]
    hosts.meet()
    print(f"{len(shown)} looks took {first:.2f} s; it was ready after {time.monotonic() - begun:.2f} s")
    hosts.converge()


def test_an_empty_disk_under_load_costs_no_visitor_an_error(hosts: Hosts) -> None:
    with crowd(hosts) as people:
        people.all_served()
        victim = hosts[1]
        victim.wipe()
        people.trouble("disk lost", victim)
        people.all_served()
        victim.start()
        people.all_served()
        people.settle()
        assert not unforced(people.failures(), victim), unforced(people.failures(), victim)[:5]
        assert_kept(people)


def test_a_rolling_restart_loses_nothing_and_visitors_see_no_error(hosts: Hosts) -> None:
    """Each host is stopped as an operator stops it. What its web processes were doing when they ended may fail."""
    with crowd(hosts) as people:
        people.all_served()
        for host in hosts:
            before = time.monotonic()
            people.trouble("stopped", host)
            host.stop()
            people.all_served()
            host.start()
            people.trouble("started", host)
            hosts.meet()
            bad = unforced(people.failures(before), host)
            assert not bad, bad[:5]
        people.all_served()
        people.settle()
        assert_kept(people)


def test_certificates_are_changed_host_by_host_without_an_error() -> None:
    """Each host's files are replaced while it runs: the next connection sees the new ones, the others stay open."""
    with Network(3) as network, Hosts(3, network=network) as hosts, crowd(hosts) as people:
        people.all_served()
        for number, host in enumerate(hosts):
            before = serial_of(network, hosts, number)
            people.trouble("certificate changed", host)
            hosts.authority.renew(network.address(number), time.time(), 30)
            assert serial_of(network, hosts, number) != before
            people.all_served()
        assert not people.failures(), people.failures()[:5]
        hosts[0].stop()
        hosts[0].start()
        assert_kept(people)


SERIAL = """
import socket, ssl, sys
address, directory = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(directory + "/ca.pem")
context.load_cert_chain(directory + "/host.pem", directory + "/host.key")
plain = socket.create_connection((address, 7946), 5)
with context.wrap_socket(plain, server_hostname=address) as sock:
    print(sock.getpeercert()["serialNumber"])
"""


def serial_of(network: Network, hosts: Hosts, number: int) -> str:
    """Return the serial number of the certificate that a host shows to another one that connects to it now."""
    other = (number + 1) % len(hosts)
    directory = hosts.authority.directory_of(network.address(other))
    command = [sys.executable, "-c", SERIAL, network.address(number), str(directory)]
    shown = network.start(other, command, stdout=subprocess.PIPE)
    return shown.communicate(timeout=10)[0].decode().strip()


def test_a_host_that_joins_catches_up_and_is_known_to_all() -> None:
    """The fourth stands in no URL but its own: the others learn of it by gossip."""
    with Hosts(4, running=3, seeds=3) as hosts:
        token = hosts[0].ask(Request("write", 1, None, {"a": 1})).token
        assert token
        hosts.converge(*hosts[:3])
        hosts[3].start()
        assert hosts[3].ask(Request("read", 1, token)).reads == {"a": 1}
        hosts.meet()
        hosts.converge()
