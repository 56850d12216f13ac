"""Nothing that describes a site can bring text of its own into a configuration."""

import pytest

from sojourn.balancer.nodes import Address, Aside, Site
from sojourn.errors import ConfigurationError

HERE = Address("127.0.0.1", 8000)

INJECTIONS = [
    "",
    "a b",
    "a\nb",
    "a\tb",
    "a;b",
    "a{b",
    "a}b",
    'a"b',
    "a#b",
    "a$b",
    "a/b",
    "a:80",
    "a\0b",
    "a_b",
    "-a",
    "a-",
    "a..b",
    "a.",
    "café",
    "{env.HOME}",
    "$http_x",
    "127.0.0.1;}",
    "127.0.0.1\n",
    "127.0.0.256",
    "1.2.3",
    "7",
    "0x7f.1",
    "[::1]",
    "::1%eth0",
    "::1%a{b",
    "::g",
    "a" * 64,
    "a." * 127 + "a",
]


@pytest.mark.parametrize("host", INJECTIONS)
def test_a_host_is_a_name_or_an_ip_address_and_nothing_else(host: str) -> None:
    with pytest.raises(ConfigurationError, match="host"):
        Address(host, 80)


@pytest.mark.parametrize("host", ["localhost", "node-3.example.org", "127.0.0.1", "::1", "2001:db8::7", "7up.example"])
def test_hosts_as_operators_write_them_are_taken(host: str) -> None:
    assert Address(host, 80).host == host


@pytest.mark.parametrize("port", [0, -1, 65536, 8.0, True, "80", "80;", None])
def test_a_port_is_a_number(port: object) -> None:
    with pytest.raises(ConfigurationError, match="port"):
        Address("localhost", port)  # type: ignore[arg-type]


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert str(Address("::1", 80)) == "[::1]:80"


@pytest.mark.parametrize(
    "path", ["/a b/", "/a;/", "/a{b}/", "/a$b/", "/a\n/", "a/", "//", "/", "", "/*/", '/"/', "/a#/"]
)
def test_a_path_is_plain(path: str) -> None:
    with pytest.raises(ConfigurationError):
        Aside(path, HERE, path + "down")


@pytest.mark.parametrize("sorry", ["/elsewhere", "/_lab/a b", "/_lab/;", "/_lab/?a=b"])
def test_the_page_for_failures_lies_under_the_path_aside(sorry: str) -> None:
    with pytest.raises(ConfigurationError):
        Aside("/_lab/", HERE, sorry)


def test_a_site_has_nodes_and_each_once() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        Site(HERE, ())
    with pytest.raises(ConfigurationError, match="twice"):
        Site(HERE, (HERE, Address("127.0.0.1", 8000)))
