"""The command line: usage, version, and the exit status of each kind of failure."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from sojourn.cli import main


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"sojourn {version('sojourn')}\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sojourn.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sojourn {version('sojourn')}\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nodes", "0"], "nodes=0"),
        (["--nodes", "100"], "nodes=100"),
        (["--port", "70000"], "port=70000"),
        (["--store", "memory:"], "use --store local:, or --nodes 1"),
        (["--store", "shoebox:"], "shoebox:"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *options])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("sojourn demo: ")
    assert says in err


@pytest.mark.parametrize("argv", [[], ["tidy"], ["demo", "--nodes", "three"], ["demo", "--balancer", "abacus"], ["-x"]])
def test_what_is_no_command_is_explained_with_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: sojourn")


def test_the_command_needs_no_driver_and_no_framework() -> None:
    code = "import sojourn.cli, sys; print(sorted({'lmdb', 'starlette', 'uvicorn', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
