"""The network of the fault tests cuts what it says, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.servers.network import Network
from tests.servers.process import until

pytestmark = pytest.mark.slow

LISTEN = """
import socket, sys
sock = socket.create_server((sys.argv[1], 7000))
print("listening", flush=True)
while True:
    sock.accept()[0].close()
"""
REACH = """
import socket, sys
socket.create_connection((sys.argv[1], 7000), timeout=0.2).close()
"""
SAY = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (sys.argv[1], 7001))
"""
HEAR = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 7001))
print("bound", flush=True)
print(sock.recv(9).decode(), flush=True)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(3) as network:
        for host in range(3):
            listener = network.start(
                host, [sys.executable, "-c", LISTEN, network.address(host)], stdout=subprocess.PIPE
            )
            assert listener.stdout
            assert listener.stdout.readline() == b"listening\n"
            listener.stdout.close()
        yield network


def reaches(network: Network, one: int, other: int) -> bool:
    command = [*network.prefix(one), sys.executable, "-c", REACH, network.address(other)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def reached(network: Network) -> set[tuple[int, int]]:
    return {(one, other) for one in range(3) for other in range(3) if one != other and reaches(network, one, other)}


ALL = {(one, other) for one in range(3) for other in range(3) if one != other}


def test_a_cut_separates_two_sides_and_healing_joins_them(network: Network) -> None:
    assert reached(network) == ALL
    network.cut({0}, {1, 2})
    assert reached(network) == {(1, 2), (2, 1)}
    network.heal()
    assert until(lambda: reached(network) == ALL, "the hosts reach each other")


def test_a_cut_in_one_direction_lets_the_other_pass(network: Network) -> None:
    network.cut_one_way(0, 1)
    assert not reaches(network, 0, 1)
    assert not reaches(network, 1, 0)  # no connection without answers
    ear = network.start(0, [sys.executable, "-c", HEAR, network.address(0)], stdout=subprocess.PIPE)
    assert ear.stdout
    assert ear.stdout.readline() == b"bound\n"
    subprocess.run([*network.prefix(1), sys.executable, "-c", SAY, network.address(0)], check=True)
    assert ear.stdout.readline() == b"hello\n"
    ear.stdout.close()


def test_nothing_stays_behind() -> None:
    def names() -> str:
        return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout

    with Network(2) as network:
        process = network.start(0, [sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert network._switch in names()
    assert process.stdin
    process.stdin.close()
    assert process.poll() == -9
    assert network._switch not in names()
