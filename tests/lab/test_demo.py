"""`sojourn demo` from outside: real nodes, a real balancer, a real client, and kill -9 under load."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import BALANCERS

pytestmark = pytest.mark.slow

NODES = ("node-1", "node-2", "node-3")
DOC = Path(__file__).parents[2] / "docs" / "cli.md"


def answered(page: httpx.Response) -> str:
    found = re.search(r'<b id="node">([^<]+)', page.text)
    assert found
    return found[1]


def installed(balancer: str) -> str:
    try:
        BALANCERS[balancer].find()
    except ConfigurationError as error:
        pytest.skip(str(error))
    return balancer


# -- the story ---------------------------------------------------------------------------------------------


def test_a_visitor_chooses_a_language_buys_and_logs_in_on_changing_nodes(demo: Any) -> None:
    with httpx.Client(base_url=demo.url, headers={"accept": "text/html"}, follow_redirects=True) as visitor:
        clicks = [
            visitor.get("/"),
            visitor.post("/language", data={"language": "de"}),
            visitor.post("/cart", data={"item": "tent"}),
            visitor.post("/cart", data={"item": "lantern"}),
            visitor.post("/login", data={"name": "Ada"}),
        ]
        nodes = [answered(page) for page in clicks]
        assert set(nodes) == set(NODES)
        assert all(before != after for before, after in pairwise(nodes))
        last = clicks[-1].text
        assert '<html lang="de">' in last
        assert '<b id="user">Ada</b>' in last
        assert 'data-item="tent"' in last
        assert 'data-item="lantern"' in last
        assert next(iter(visitor.cookies.jar)).value not in last


def test_two_nodes_also_change_from_click_to_click(start_demo: Any) -> None:
    """Two requests a click and two nodes: in one common round the same node would make every page."""
    demo = start_demo("--nodes", "2")
    with httpx.Client(base_url=demo.url, headers={"accept": "text/html"}, follow_redirects=True) as visitor:
        nodes = [answered(visitor.post("/cart", data={"item": "map"})) for _ in range(4)]
    assert nodes[0] == nodes[2] != nodes[1] == nodes[3]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_story_for_curl_in_the_docs_is_true(demo: Any, tmp_path: Path) -> None:
    block = re.search(r"```sh\n(curl .*?)```", DOC.read_text(), re.DOTALL)
    assert block
    lines = block[1].strip().splitlines()

    def run(line: str) -> Any:
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env={**os.environ, "URL": demo.url}, capture_output=True
        )
        return httpx.Response(200, content=done.stdout).json()

    for line in lines:
        facts = run(line)
    assert (facts["user"], facts["values"]["cart"]) == ("Ada", {"tent": 1, "lantern": 1})
    os.kill(facts["pid"], signal.SIGKILL)
    after = run(lines[-1])
    assert (after["user"], after["values"]["cart"]) == ("Ada", {"tent": 1, "lantern": 1})
    assert after["node"] != facts["node"]
    demo.restart(facts["node"])


# -- kill -9 under load ------------------------------------------------------------------------------------


class Visitor(threading.Thread):
    """Looks and buys without a pause, and knows what the cart may hold after every answer.

    A look must always succeed. A purchase may be answered with 502, and only when its node was killed while working
    on it: then it was done once or not at all, and the next look shows which. Anything else is noted as broken.
    """

    def __init__(self, url: str, name: str, stop: threading.Event) -> None:
        super().__init__()
        self.url, self._visitor, self._stop_now = url, name, stop
        self.looks = self.purchases = self.lost_answers = 0
        self.broken: list[str] = []
        self._possible = {0}

    def run(self) -> None:
        try:
            with httpx.Client(base_url=self.url, timeout=20) as client:
                client.post("/login", data={"name": self._visitor}).raise_for_status()
                client.post("/cart", data={"item": "tent"}).raise_for_status()
                for by in cycle((1, 1, -1, -1)):
                    if self._stop_now.is_set() or self.broken:
                        return
                    self._buy(client, by)
                    self._look(client)
        except Exception as error:
            self.broken.append(repr(error))

    def _buy(self, client: httpx.Client, by: int) -> None:
        answer = client.post("/cart", data={"item": "lantern", "by": str(by)})
        self.purchases += 1
        after = {max(0, count + by) for count in self._possible}
        if answer.status_code == 502:
            self.lost_answers += 1
            self._possible |= after
        else:
            self._check(answer, after)

    def _look(self, client: httpx.Client) -> None:
        self._check(client.get("/api/session"), self._possible)
        self.looks += 1

    def _check(self, answer: httpx.Response, possible: set[int]) -> None:
        if answer.status_code != 200:
            self.broken.append(f"{answer.request.method} was answered {answer.status_code}: {answer.text[:200]}")
            return
        facts = answer.json()
        cart = facts["values"]["cart"]
        count = cart.get("lantern", 0)
        if facts["user"] != self._visitor or cart["tent"] != 1 or count not in possible:
            self.broken.append(f"{facts} while lanterns may be {possible}")
        self._possible = {count}


@pytest.mark.parametrize(
    ("balancer", "server"),
    [("caddy", None), ("nginx", None), ("caddy", "redis_server"), ("nginx", "memcached_servers")],
)
def test_login_and_cart_survive_kill_9_of_each_node_in_turn_under_load(
    balancer: str,
    server: str | None,
    start_demo: Any,
    wait_until: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> None:
    elsewhere: tuple[str, ...] = ()
    if server:
        shared = request.getfixturevalue(server)
        shared.fresh()
        elsewhere = ("--store", shared.url)
    demo = start_demo("--balancer", installed(balancer), *elsewhere)
    stop = threading.Event()
    visitors = [Visitor(demo.url, f"visitor-{number}", stop) for number in range(4)]

    def everybody_has_looked(times: int) -> Callable[[], bool]:
        goals = [visitor.looks + times for visitor in visitors]
        return lambda: (
            any(v.broken for v in visitors) or all(v.looks >= g for v, g in zip(visitors, goals, strict=True))
        )

    for visitor in visitors:
        visitor.start()
    try:
        for node in NODES:
            wait_until(everybody_has_looked(5))
            demo.kill(node)
            wait_until(everybody_has_looked(15))
            demo.restart(node)
        wait_until(everybody_has_looked(5))
    finally:
        stop.set()
        for visitor in visitors:
            visitor.join()
    assert [visitor.broken for visitor in visitors] == [[]] * len(visitors)
    assert sum(visitor.lost_answers for visitor in visitors) <= len(visitors) * len(NODES)  # one in flight each
    assert {node["state"] for node in demo.nodes().values()} == {"up"}


# -- the buttons -------------------------------------------------------------------------------------------


def test_the_buttons_kill_and_restart(demo: Any, wait_until: Callable[..., Any]) -> None:
    before = demo.nodes()["node-2"]["pid"]
    page = {"accept": "text/html"}
    kill = httpx.post(f"{demo.url}/_lab/nodes/2/kill", data={"token": demo.token()}, headers=page)
    assert (kill.status_code, kill.headers["location"]) == (303, "/")
    assert demo.nodes()["node-2"]["state"] == "down"
    demo.restart("node-2")
    after = demo.nodes()["node-2"]
    assert after["state"] == "up"
    assert after["pid"] != before
    assert after["port"] == demo.ports["node-2"]
    wait_until(lambda: httpx.get(f"{demo.url}/api/session").json()["pid"] == after["pid"])


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("1/kill", "guess", 403), ("1/kill", "", 403), ("0/kill", None, 404), ("4/kill", None, 404)],
)
def test_killing_takes_the_token_of_the_page_and_a_node_that_exists(
    demo: Any, path: str, token: str | None, status: int
) -> None:
    data = {"token": demo.token() if token is None else token}
    assert httpx.post(f"{demo.url}/_lab/nodes/{path}", data=data).status_code == status
    assert {node["state"] for node in demo.nodes().values()} == {"up"}


def test_a_host_name_of_somebody_else_is_refused_on_every_port(demo: Any) -> None:
    for port in demo.ports.values():
        answer = httpx.get(f"http://127.0.0.1:{port}/_lab/nodes", headers={"host": "evil.example"})
        assert answer.status_code == 400


def test_with_no_node_left_the_visitor_is_told_and_finds_everything_after_a_restart(
    start_demo: Any, wait_until: Callable[..., Any]
) -> None:
    demo = start_demo("--nodes", "1")
    with httpx.Client(base_url=demo.url, timeout=20, headers={"accept": "text/html"}, follow_redirects=True) as visitor:
        visitor.post("/login", data={"name": "Ada"})
        token = demo.token()
        demo.kill("node-1")
        page = visitor.post("/cart", data={"item": "tent"})
        assert page.status_code in (502, 503)
        assert "/_lab/nodes/1/restart" in page.text
        page = visitor.post("/_lab/nodes/1/restart", data={"token": token})
        assert '<b id="user">Ada</b>' in page.text


# -- the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "nodes"), [(signal.SIGINT, 3), (signal.SIGTERM, 1), (signal.SIGHUP, 1)])
def test_a_signal_ends_everything(number: signal.Signals, nodes: int, start_demo: Any) -> None:
    demo = start_demo("--nodes", str(nodes))
    httpx.post(f"{demo.url}/cart", data={"item": "tent"})
    assert demo.signal(number) == 0
    assert demo.left_over() == []
    for port in demo.ports.values():
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
    assert list(demo.temp.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
@pytest.mark.parametrize("balancer", ["caddy", "nginx"])
def test_kill_9_of_the_demo_leaves_no_orphans(balancer: str, start_demo: Any, wait_until: Callable[..., Any]) -> None:
    demo = start_demo("--balancer", installed(balancer), "--nodes", "2")
    assert demo.signal(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: demo.left_over() == [])


def test_a_signal_during_the_start_ends_what_has_been_started(
    tmp_path: Path, wait_until: Callable[..., Any], sojourn_command: tuple[str, ...]
) -> None:
    command = [*sojourn_command, "demo", "--store", f"local:{tmp_path / 'store'}?sync=no"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        children = wait_until(psutil.Process(process.pid).children)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=15)
    assert (process.returncode, output) == (0, ("", ""))
    assert [child for child in children if child.is_running()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_logs_are_for_nobody_else(demo: Any) -> None:
    directories = {log.parent for log in demo.logs.values()}
    assert [directory.stat().st_mode & 0o777 for directory in directories] == [0o700]
    assert "GET /health" in demo.logs["node-1"].read_text()
