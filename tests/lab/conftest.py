"""The demo as a newcomer starts it: the command in a process of its own, always ended."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

SOJOURN = (sys.executable, "-m", "sojourn.cli")


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Return the first true answer of *condition*."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return answer


@pytest.fixture
def sojourn_command() -> tuple[str, ...]:
    return SOJOURN


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until


class RunningDemo:
    """`sojourn demo`, what it printed, and what became of its processes."""

    def __init__(self, directory: Path, *options: str, quiet: bool = True) -> None:
        self.temp = directory / "temp"
        self.temp.mkdir()
        env = {**os.environ, "TMPDIR": str(self.temp)}
        store = f"local:{directory / 'store'}?sync=no"
        command = [*SOJOURN, "demo", "--store", store, *options]
        errors = None if quiet else subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, start_new_session=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:")
        self.output = ""
        while "Ctrl-C" not in self.output:
            self.output += self.process.stdout.readline()
        rows = re.findall(r"^(\S+) +(\d+) +(\d+) +(.+)$", self.output, re.MULTILINE)
        self.ports = {name: int(port) for name, port, _, _ in rows}
        self.pids = {name: int(pid) for name, _, pid, _ in rows}
        self.logs = {name: Path(log) for name, _, _, log in rows if log.startswith("/")}

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in httpx.get(f"{self.url}/_lab/nodes").json()}

    def kill(self, name: str) -> None:
        """kill -9, by the system's own means."""
        os.kill(self.nodes()[name]["pid"], signal.SIGKILL)
        wait_until(lambda: self.nodes()[name]["state"] == "down")

    def restart(self, name: str) -> None:
        """Press the button of the page."""
        answer = httpx.post(f"{self.url}/_lab/nodes/{name[-1]}/restart", data={"token": self.token()}, timeout=30)
        assert answer.json()["state"] == "up"

    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', httpx.get(self.url).text)
        assert found
        return found[1]

    def signal(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def left_over(self) -> list[int]:
        """Return which of the processes that it started still run."""
        return [pid for name, pid in self.pids.items() if name != "control" and runs(pid)]

    def close(self) -> None:
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGINT)
        finally:
            self.process.kill()
            self.process.communicate()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


StartDemo = Callable[..., RunningDemo]


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[StartDemo]:
    """Start demos with given options; each is ended with the test."""
    started: list[RunningDemo] = []

    def start(*options: str, quiet: bool = True) -> RunningDemo:
        directory = tmp_path / f"demo-{len(started)}"
        directory.mkdir()
        started.append(RunningDemo(directory, *options, quiet=quiet))
        return started[-1]

    yield start
    for demo in started:
        demo.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    """One demo of three nodes for the tests of a module that leave it as it was."""
    running = RunningDemo(tmp_path_factory.mktemp("demo"))
    yield running
    running.close()


@pytest.fixture
def sojourn(tmp_path: Path) -> Callable[..., Any]:
    """Run the command to its end, with a store and a place for temporary files that are the test's own."""

    def run(*args: str, env: dict[str, str] | None = None) -> Any:
        store = ("--store", f"local:{tmp_path / 'store'}?sync=no")
        surroundings = {**os.environ, "TMPDIR": str(tmp_path), **(env or {})}
        command = (*SOJOURN, *args, *store)
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=surroundings)
        done.temp = str(tmp_path)
        return done

    return run
