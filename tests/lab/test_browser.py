"""The demo in a real browser, driven by its own protocol: log in, buy, kill the node that answered, go on."""

import itertools
import json
import os
import shutil
import signal
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
OUTPUT = Path(__file__).parents[1] / "output"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium"),
]


class Tab:
    """One tab of a headless browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._session: dict[str, str] = {}
        tabs = self.tell("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in tabs if target["type"] == "page")
        self._session = {"sessionId": self.tell("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]}
        self.tell("Page.enable")

    def tell(self, method: str, **params: Any) -> Any:
        """Send one command; return its result. Events that come meanwhile are not of interest."""
        return self._until(self._send(method, **params), None)

    def go(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._until(self._send("Page.navigate", url=url), "Page.loadEventFired")

    def click(self, selector: str) -> None:
        """Press and release the mouse over an element; wait for the page that follows."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        at = self.ask(f"(r => ({{x: r.x + r.width / 2, y: r.y + r.height / 2}}))({box}.getBoundingClientRect())")
        self.tell("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **at)
        released = self._send("Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **at)
        self._until(released, "Page.loadEventFired")

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field and type."""
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        self.tell("Input.insertText", text=text)

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text of an element, or the empty text where there is none."""
        return str(self.ask(f"(document.querySelector({json.dumps(selector)}) || {{}}).textContent || ''"))

    def shows(self, selector: str) -> bool:
        """Tell whether an element can be seen."""
        return bool(self.ask(f"!!(document.querySelector({json.dumps(selector)}) || {{}}).offsetParent"))

    def picture(self, name: str, width: int, height: int) -> None:
        """Save a screenshot of the whole page at this width."""
        OUTPUT.mkdir(exist_ok=True)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        shot = self.tell("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        (OUTPUT / name).write_bytes(b64decode(shot))

    def _send(self, method: str, **params: Any) -> int:
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params, **self._session}))
        return number

    def _until(self, number: int, event: str | None) -> Any:
        """Read until the answer to command *number* and, if one is named, *event* have both come."""
        answer = None
        while answer is None or event is not None:
            message = json.loads(self._connection.recv(timeout=20))
            if message.get("id") == number:
                assert "error" not in message, message
                answer = message["result"]
            if message.get("method") == event:
                event = None
        return answer


@contextmanager
def chromium(profile: Path, wait_until: Callable[..., Any]) -> Iterator[str]:
    """Run a browser with a fresh profile; yields the address of its DevTools."""
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    port = profile / "DevToolsActivePort"
    try:
        number, path = wait_until(lambda: port.exists() and port.read_text().count("\n") and port.read_text().split())
        yield f"ws://127.0.0.1:{number}{path}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def browser(tmp_path: Path, wait_until: Callable[..., Any]) -> Iterator[Tab]:
    with chromium(tmp_path / "profile", wait_until) as url, connect(url, max_size=None, proxy=None) as connection:
        yield Tab(connection)


def test_a_visitor_keeps_login_and_cart_when_the_node_that_answered_is_killed(
    demo: Any, browser: Tab, wait_until: Callable[..., Any]
) -> None:
    browser.go(demo.url)
    browser.type("input[name=name]", "Ada")
    browser.click(".account button")
    assert browser.text("#user") == "Ada"
    browser.click("button[value=tent]")
    browser.click("button[value=lantern]")
    assert (browser.text("[data-item=tent] b"), browser.text("[data-item=lantern] b")) == ("1", "1")

    answered = browser.text("#node")
    browser.click(f"[data-node={answered}] .kill")
    wait_until(lambda: browser.text(f"[data-node={answered}] .state") == "down")
    for language in ("de", "zh", "en"):
        browser.click(f"button[value={language}]")
        assert browser.ask("document.documentElement.lang") == language
        assert browser.text("#user") == "Ada"
        assert (browser.text("[data-item=tent] b"), browser.text("[data-item=lantern] b")) == ("1", "1")
        assert browser.text("#node") != answered
    wait_until(lambda: browser.text(f"[data-node={answered}] .state") == "down")
    browser.picture("demo-wide.png", 1280, 960)
    assert browser.ask("document.documentElement.scrollWidth") == 1280
    browser.picture("demo-narrow.png", 375, 812)
    assert browser.ask("document.documentElement.scrollWidth") == 375

    browser.click(f"[data-node={answered}] .restart")
    wait_until(lambda: browser.text(f"[data-node={answered}] .state") == "up")
    assert browser.text("#user") == "Ada"


def test_a_visitor_buys_on_while_one_host_is_cut_off_and_sees_how_the_stores_part_and_meet(
    start_demo: Any, browser: Tab, wait_until: Callable[..., Any]
) -> None:
    demo = start_demo("--store", "peers:")
    nodes = ("node-1", "node-2", "node-3")

    def held() -> list[str]:
        return [browser.text(f"[data-node={node}] .held") for node in nodes]

    def bought(count: int) -> None:
        """Press until the shop confirms it; a host that cannot answer shows a page that leads back by itself."""
        wait_until(lambda: browser.text("[data-item=tent] b") or browser.text("#back"))
        browser.click("button[value=tent]" if browser.text("#node") else "#back")
        wait_until(lambda: browser.text("[data-item=tent] b") == str(count))

    browser.go(demo.url)
    browser.click("button[value=tent]")
    wait_until(lambda: held() == ["1"] * 3)
    browser.click("[data-node=node-3] .cut")
    wait_until(lambda: browser.shows("[data-node=node-3] .apart"))
    assert not browser.shows("[data-node=node-3] .cut")
    assert not browser.shows("[data-node=node-1] .heal")
    bought(2)
    wait_until(lambda: len(set(held())) == 2)
    browser.picture("demo-hosts.png", 1280, 960)
    assert browser.ask("document.documentElement.scrollWidth") == 1280
    browser.picture("demo-hosts-narrow.png", 375, 812)
    assert browser.ask("document.documentElement.scrollWidth") == 375
    browser.click("[data-node=node-3] .heal")
    wait_until(lambda: held() == ["2"] * 3)
