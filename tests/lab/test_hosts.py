"""`sojourn demo --store peers:`: hosts with stores of their own, killed, wiped and cut off while a visitor buys."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.lab.conftest import runs

pytestmark = pytest.mark.slow

NODES = ("node-1", "node-2", "node-3")
PEERS = ("--store", "peers:")


class Shopper:
    """A visitor with a browser's patience: a look that is refused is tried again, a purchase is looked up first."""

    def __init__(self, demo: Any, wait_until: Callable[..., Any]) -> None:
        self._client = httpx.Client(base_url=demo.url, timeout=20)
        self._wait_until = wait_until
        self.refused = 0
        assert self._client.post("/login", data={"name": "Ada"}).status_code == 200
        self.bought = 0

    def looks(self) -> int:
        """Return how many maps are in the cart, asking until a host answers."""
        facts = self._wait_until(self._look)
        assert facts["user"] == "Ada"
        count: int = facts["values"].get("cart", {}).get("map", 0)
        return count

    def _look(self) -> Any:
        answer = self._client.get("/api/session")
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            self.refused += 1
            return None
        return answer.json()

    def buys(self) -> str:
        """Buy one more, and see that it is there; return the node that sold it."""
        answer = self._wait_until(self._buy)
        self.bought += 1
        assert self.looks() == self.bought
        return str(answer.json()["node"])

    def _buy(self) -> httpx.Response | None:
        answer = self._client.post("/cart", data={"item": "map"})
        if answer.status_code == 200:
            return answer
        assert answer.status_code in (502, 503), answer.text
        self.refused += 1
        if self.looks() == self.bought + 1:  # it was made although it could not be confirmed
            self.bought -= 1
            return self._client.get("/api/session")
        return None

    def copies(self) -> dict[str, int | None]:
        """Return what each host's own store has in this visitor's cart."""
        return {copy["name"]: copy["cart"] for copy in self._client.get("/_lab/copies").json()}

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def shopping(start_demo: Any, wait_until: Callable[..., Any]) -> Iterator[tuple[Any, Shopper]]:
    demo = start_demo(*PEERS)
    shopper = Shopper(demo, wait_until)
    yield demo, shopper
    shopper.close()


def press(demo: Any, node: str, button: str) -> dict[str, Any]:
    answer = httpx.post(f"{demo.url}/_lab/nodes/{node[-1]}/{button}", data={"token": demo.token()}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_every_host_has_an_agent_and_a_store_of_its_own(shopping: tuple[Any, Shopper], wait_until: Any) -> None:
    demo, shopper = shopping
    assert {"agent-1", "agent-2", "agent-3"} <= set(demo.pids)
    assert len({node["agent"] for node in demo.nodes().values()}) == 3
    sellers = {shopper.buys() for _ in NODES}
    assert sellers == set(NODES)
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, 3))
    stores = sorted(path.parent.name for path in demo.temp.rglob("data.mdb"))
    assert stores == ["host-1", "host-2", "host-3"]


def test_one_host_is_killed_with_its_agent_and_one_is_wiped_and_the_cart_stays(
    shopping: tuple[Any, Shopper], wait_until: Any
) -> None:
    demo, shopper = shopping
    shopper.buys()
    assert press(demo, "node-1", "kill")["state"] == "down"
    assert demo.nodes()["node-1"]["agent"] == 0
    assert {shopper.buys() for _ in range(4)} == {"node-2", "node-3"}
    assert press(demo, "node-1", "restart")["state"] == "up"
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, 5))

    before = demo.nodes()["node-2"]
    assert press(demo, "node-2", "wipe")["state"] == "up"
    after = demo.nodes()["node-2"]
    assert after["agent"] not in (0, before["agent"])
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, 5))
    assert {shopper.buys() for _ in range(6)} == set(NODES)


def test_one_host_is_cut_off_while_a_visitor_buys_and_afterwards_all_have_everything(
    shopping: tuple[Any, Shopper], wait_until: Any
) -> None:
    demo, shopper = shopping
    shopper.buys()
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, 1))
    assert press(demo, "node-3", "cut")["cut"]
    for _ in range(4):
        shopper.buys()
    behind = shopper.copies()
    assert len(set(behind.values())) > 1, behind  # the stores are apart, and the visitor has seen nothing of it
    assert not press(demo, "node-3", "heal")["cut"]
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, shopper.bought))
    assert {shopper.buys() for _ in range(3)} == set(NODES)


def test_one_is_killed_and_one_is_cut_off_and_the_visitor_is_served(
    shopping: tuple[Any, Shopper], wait_until: Any
) -> None:
    demo, shopper = shopping
    shopper.buys()
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, 1))
    press(demo, "node-1", "kill")
    press(demo, "node-3", "cut")
    for _ in range(3):
        shopper.buys()
    press(demo, "node-1", "restart")
    press(demo, "node-3", "heal")
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, shopper.bought))


def test_a_host_that_cannot_show_what_the_browser_has_seen_says_so_on_a_page_with_the_buttons(
    shopping: tuple[Any, Shopper], wait_until: Any
) -> None:
    demo, shopper = shopping
    shopper.buys()
    wait_until(lambda: shopper.copies() == dict.fromkeys(NODES, 1))
    press(demo, "node-3", "cut")
    shopper.buys()
    browser = httpx.Client(base_url=demo.url, timeout=20, headers={"accept": "text/html"})
    browser.cookies = shopper._client.cookies
    with browser:
        page = wait_until(lambda: (page := browser.get("/")).status_code == 503 and page)
    assert "cannot answer for your session" in page.text
    assert page.headers["refresh"] == "1"
    assert "/_lab/nodes/3/heal" in page.text


def test_an_agent_that_was_killed_by_hand_is_replaced_and_ends_with_the_demo(
    shopping: tuple[Any, Shopper], wait_until: Any
) -> None:
    demo, shopper = shopping
    killed = demo.pids["agent-1"]
    os.kill(killed, signal.SIGKILL)
    for _ in range(3):
        shopper.buys()
    other = wait_until(lambda: (pid := demo.nodes()["node-1"]["agent"]) not in (0, killed) and pid)
    assert demo.signal(signal.SIGINT) == 0
    wait_until(lambda: not runs(other))


def test_the_buttons_of_hosts_are_for_hosts(demo: Any) -> None:
    """The other demos share one store."""
    for button in ("cut", "heal", "wipe"):
        answer = httpx.post(f"{demo.url}/_lab/nodes/1/{button}", data={"token": demo.token()})
        assert (answer.status_code, "--store peers:" in answer.text) == (404, True)
    assert "/cut" not in httpx.get(demo.url).text
    assert httpx.post(f"{demo.url}/_lab/nodes/1/cut", data={"token": "guess"}).status_code == 403


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_demo_is_the_end_of_its_agents(number: int, start_demo: Any, wait_until: Any) -> None:
    demo = start_demo(*PEERS, "--nodes", "2")
    agents = [node["agent"] for node in demo.nodes().values()]
    assert all(agents)
    assert demo.signal(number) == (0 if number == signal.SIGINT else -number)
    wait_until(lambda: demo.left_over() == [])
    if number == signal.SIGINT:
        assert list(demo.temp.iterdir()) == []


def test_with_two_copies_on_three_hosts_a_visitor_is_served_by_all_and_one_may_be_killed(
    start_demo: Any, wait_until: Callable[..., Any]
) -> None:
    demo = start_demo("--store", "peers:?copies=2")
    with contextlib.closing(Shopper(demo, wait_until)) as shopper:
        assert {shopper.buys() for _ in range(6)} == set(NODES)
        press(demo, "node-2", "kill")
        assert {shopper.buys() for _ in range(4)} == {"node-1", "node-3"}
