"""Starting an agent from workers: many at once start one, none waits, none is started in vain again and again."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.servers.process import until
from tests.store.peers.wires import directories

from sojourn.errors import StoreUnavailable
from sojourn.store.peers import channel
from sojourn.store.peers import start as starting
from sojourn.store.peers.start import FAILED, LOG, STARTED, interpreter, start, why_not

URL = "peers://127.0.0.1:1"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store's directory, whose agents are lines in a file elsewhere: nobody waits for one, so it may outlive it."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/started\nls -l /proc/$$/fd >>{tmp_path}/open\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with directories() as path:
        yield path


def started(tmp_path: Path) -> list[str]:
    path = tmp_path / "started"
    return path.read_text().splitlines() if path.exists() else []


def test_an_agent_is_started_by_exec_with_the_url_and_the_callers_search_path_left_out(
    directory: Path, tmp_path: Path
) -> None:
    assert start(directory, URL)
    (line,) = until(lambda: started(tmp_path), "it was started")
    assert line == f"-P -m sojourn.store.peers.agent {URL}"


def test_many_threads_and_processes_at_once_start_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "PACE", 60.0)  # on a busy machine four interpreters may come one after the other
    code = (
        "import sys; from pathlib import Path; from sojourn.store.peers import start as s; s.PACE = 60; "
        f"sys.executable = {sys.executable!r}; sys.stdin.read(); print(s.start(Path({str(directory)!r}), {URL!r}))"
    )
    real = os.path.realpath(f"/proc/{os.getpid()}/exe")
    prefix = Path(sys.prefix) / "bin" / "python3"
    command = [str(prefix if prefix.exists() else real), "-c", code]
    others = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        mine = [pool.submit(start, directory, URL) for _ in range(8)]
        theirs = [process.communicate("")[0].strip() == "True" for process in others]
    first = sum(future.result() for future in mine)
    assert (first, sum(theirs)) == (1, 0)
    until(lambda: len(started(tmp_path)) == 1, "it was started")


def test_one_that_died_is_started_again_after_the_pace(directory: Path) -> None:
    assert start(directory, URL)
    assert not start(directory, URL)
    _age(directory, starting.PACE)
    assert start(directory, URL)


def test_one_that_said_why_it_cannot_start_is_tried_less_often(directory: Path) -> None:
    assert start(directory, URL)
    (directory / FAILED).write_text("tls=/nowhere cannot be used\n")
    assert why_not(directory) == "tls=/nowhere cannot be used"
    _age(directory, starting.PACE)
    assert not start(directory, URL)
    _age(directory, starting.PACE_AFTER_FAILURE)
    assert start(directory, URL)


def test_a_clock_that_was_set_back_does_not_keep_it_from_starting(directory: Path) -> None:
    assert start(directory, URL)
    _age(directory, -3600)
    assert start(directory, URL)


def _age(directory: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(directory / STARTED, (then, then))


def test_a_forked_child_can_start_one_although_a_thread_of_its_parent_was_starting(directory: Path) -> None:
    with starting._here:
        child = os.fork()
        if not child:
            os._exit(0 if start(directory, URL) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_agent_inherits_no_descriptor_and_its_log_is_private(directory: Path, tmp_path: Path) -> None:
    with open(directory / "inheritable", "wb") as file:
        os.set_inheritable(file.fileno(), True)
        assert start(directory, URL)
    seen = tmp_path / "open"
    until(lambda: seen.exists() and "agent.log" in seen.read_text(), "it was started")
    assert "inheritable" not in seen.read_text()
    assert stat.S_IMODE((directory / LOG).stat().st_mode) == 0o600


def test_a_start_that_the_system_refuses_is_unavailable(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(StoreUnavailable, match="cannot be started") as raised:
        start(directory, URL)
    assert isinstance(raised.value.__cause__, BlockingIOError)


def test_inside_a_server_that_embeds_python_the_interpreter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    assert Path(interpreter()).name.startswith("python")
    monkeypatch.setattr(sys, "executable", None)
    assert Path(interpreter()).name.startswith("python")


# -- the socket ------------------------------------------------------------------------------------------------------


def test_the_socket_is_for_this_user_alone(directory: Path) -> None:
    before = os.umask(0)
    try:
        with channel.listen(directory):
            assert stat.S_IMODE((directory / channel.SOCKET).stat().st_mode) == 0o600
            with channel.connect(directory, 0):
                assert channel.agent_of(directory) == os.getpid()
    finally:
        os.umask(before)


def test_a_server_of_another_user_is_not_talked_to(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with channel.listen(directory):
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(ConnectionRefusedError, match="another user"):
            channel.connect(directory, 0)


def test_a_path_that_is_too_long_for_a_socket_works_all_the_same(directory: Path) -> None:
    deep = directory / ("d" * 120)
    deep.mkdir()
    with channel.listen(deep), channel.connect(deep, 1.0) as sock:
        assert sock.gettimeout() == 1.0
    with pytest.raises(ConnectionRefusedError):
        channel.connect(deep, 0)


def test_a_socket_that_a_killed_agent_left_is_replaced(directory: Path) -> None:
    channel.listen(directory).close()
    assert channel.agent_of(directory) is None
    with channel.listen(directory):
        assert channel.agent_of(directory)
