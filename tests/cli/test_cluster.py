"""``sojourn cluster status`` and ``leave``: what they print and their exit status, asked of agents that tests play."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sojourn.cli import main, parser
from sojourn.cli.cluster import render_status, troubles
from sojourn.cluster.local import Leave, Status, View
from sojourn.store.peers import channel, operators

Answering = Callable[[Any], list[Any]]


def member(name: str, **other: Any) -> dict[str, Any]:
    usual = {"state": "alive", "ready": True, "incarnation": 1, "origin": "00", "connected": True}
    return {"name": name, **usual, "lag_ms": 1, "behind": 0, **other}


def view(*members: dict[str, Any], **other: Any) -> dict[str, Any]:
    usual = {"me": "a:1", "ready": True, "copies": None, "acks": 1, "alone": "accept", "origin": "00"}
    return {**usual, "members": list(members), "under_replicated": 0, "clashes": 0, "questions": 0, **other}


GOOD = view(member("a:1"), member("b:1"), member("c:1", lag_ms=12, behind=3))
BAD = view(member("a:1"), member("b:1", state="dead", lag_ms=None, behind=None), member("c:1", ready=False))


# -- as text ---------------------------------------------------------------------------------------------------


def test_each_host_is_a_line_and_this_one_is_marked() -> None:
    lines = render_status(GOOD).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["host", "state", "ready", "lag", "behind"],
        ["a:1", "(here)", "alive", "yes"],
        ["b:1", "alive", "yes", "1", "ms", "0"],
        ["c:1", "alive", "yes", "12", "ms", "3"],
    ]
    assert lines[5] == (
        "copies=all, acks=1, alone=accept; writes on too few hosts: 0, values changed by two at once: 0"
    )
    assert len(lines) == 6


def test_what_is_not_as_it_should_be_is_a_sentence_of_its_own() -> None:
    assert troubles(GOOD) == []
    assert troubles(BAD) == ["b:1 is dead.", "c:1 has not caught up yet."]
    assert render_status(BAD).endswith("\n\nb:1 is dead.\nc:1 has not caught up yet.")
    apart = view(member("a:1"), member("b:1", connected=False))
    assert troubles(apart) == ["b:1 is alive and cannot be reached from here."]
    assert troubles(view(member("a:1"))) == ["a:1 has met no other host."]


def test_a_host_that_has_left_is_no_trouble() -> None:
    assert troubles(view(*GOOD["members"], member("d:1", state="left", ready=False))) == []


# -- asking an agent -------------------------------------------------------------------------------------------


def url_of(directory: Path) -> str:
    return f"peers://127.0.0.1:7946?self=127.0.0.1:7946&path={directory}"


@contextmanager
def agent(directory: Path, answering: Answering) -> Iterator[list[Any]]:
    """Serve one connection as an agent would; yields the requests that came."""
    directory.mkdir(mode=0o700, exist_ok=True)
    asked: list[Any] = []

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            requests = channel.Requests()
            while data := sock.recv(1 << 16):
                for request in requests.feed(data):
                    asked.append(request)
                    for frame in answering(request):
                        sock.sendall(frame)

    with channel.listen(directory) as listener:
        listener.setblocking(True)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield asked
        thread.join(10)
        assert not thread.is_alive()


def answer(found: dict[str, Any]) -> Answering:
    return lambda request: [channel.to_frame(View(request.number, found))]


@pytest.mark.parametrize(("found", "code"), [(GOOD, 0), (BAD, 3)])
def test_status_is_that_of_the_cluster(
    tmp_path: Path, found: dict[str, Any], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent(tmp_path / "store", answer(found)) as asked:
        assert main(["cluster", "status", url_of(tmp_path / "store")]) == code
    assert capsys.readouterr() == (render_status(found) + "\n", "")
    assert [type(request) for request in asked] == [Status]


def test_as_json_it_is_everything_the_agent_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SESSIONS", url_of(tmp_path / "store"))
    found = {**GOOD, "more": [1, 2]}
    with agent(tmp_path / "store", answer(found)):
        assert main(["cluster", "status", "env:SESSIONS", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_a_host_that_has_handed_everything_on_has_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with agent(tmp_path / "store", answer({**GOOD, "left": True})) as asked:
        assert main(["cluster", "leave", url_of(tmp_path / "store"), "--wait", "2.5"]) == 0
    assert capsys.readouterr() == ("127.0.0.1:7946 has left: its sessions are on other hosts.\n", "")
    assert asked == [Leave(1, 2500)]


def test_a_host_that_could_not_hand_everything_on_is_a_failure_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent(tmp_path / "store", answer({**GOOD, "left": False, "remaining": 7})):
        assert main(["cluster", "leave", url_of(tmp_path / "store")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "7 sessions are not on enough other hosts yet" in err
    assert "still a member" in err


# -- when there is no answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["status", "leave"])
def test_without_an_agent_it_is_one_line_that_says_how_to_start_one(
    tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", action, url_of(tmp_path / "store")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"no agent runs for {tmp_path / 'store'}" in err
    assert "sojourn cluster agent URL" in err
    assert not (tmp_path / "store").exists()  # a look makes nothing


def test_an_agent_that_could_not_start_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    (tmp_path / "store" / "agent.failed").write_text("the port is taken\n")
    assert main(["cluster", "status", url_of(tmp_path / "store")]) == 1
    assert "the last could not start (the port is taken)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "frames", [[], [b"\xff" * 64], [b"\x00\x00\x00\x02"]], ids=["silent", "no frame of the protocol", "half a frame"]
)
def test_an_agent_that_does_not_answer_is_one_line_after_a_bounded_time(
    tmp_path: Path, frames: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators, "PATIENCE", 0.2)
    with agent(tmp_path / "store", lambda _: frames):
        assert main(["cluster", "status", url_of(tmp_path / "store")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"the agent of {tmp_path / 'store'} does not answer" in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["status", "redis://127.0.0.1"], "only a peers: URL names a cluster"),
        (["status", "env:NOWHERE"], "no variable 'NOWHERE'"),
        (["status", "peers://shop.example"], "tls=DIRECTORY"),
        (["agent", "peers://127.0.0.1?copies=none"], "copies=none"),
        (["leave", "peers://127.0.0.1", "--wait", "0"], "wait=0"),
        (["leave", "peers://127.0.0.1", "--wait", "nan"], "wait=nan"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(
    argv: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOJOURN_SELF", argv[1].removeprefix("peers://").partition("?")[0])
    assert main(["cluster", *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"sojourn cluster {argv[0]}: ")
    assert says in err


@pytest.mark.parametrize("argv", [[], ["certs"], ["status"], ["tidy"]])
def test_what_is_no_action_is_explained_with_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["cluster", *argv])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: sojourn cluster")


def test_every_action_and_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    [commands] = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    [actions] = (one for one in commands.choices["cluster"]._actions if isinstance(one, argparse._SubParsersAction))
    for name, action in actions.choices.items():
        assert f"### `sojourn cluster {name}`" in page
        options = [option for one in action._actions for option in one.option_strings]
        assert [option for option in options if option not in page] == []


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (["alive", "dead"], "127.0.0.1:1 has left: its sessions are on other hosts."),
        (["left"], "127.0.0.1:1 has left, and there is no other host."),
        (["dead", "suspect"], "run there: sojourn cluster forget URL 127.0.0.1:1"),
    ],
)
def test_who_leaves_unheard_is_to_be_forgotten(
    states: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [{"name": f"h{number}:1", "state": state} for number, state in enumerate(states)]
    view = {"left": True, "remaining": 0, "members": [{"name": "127.0.0.1:1", "state": "left"}, *members]}
    monkeypatch.setattr(operators, "leave", lambda *_: view)
    assert main(["cluster", "leave", "peers://127.0.0.1:1?self=127.0.0.1:1"]) == 0
    assert says in capsys.readouterr().out
