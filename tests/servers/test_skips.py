"""A test that lacks its program names the Debian package, and fails where nothing may be left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers.skips import VARIABLE, require

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

CONFTEST = "from tests.servers.skips import pytest_make_collect_report, pytest_runtest_makereport\n"
NEEDS = """
import pytest
from tests.servers import skips
skips.SYSTEM = ""

@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("PATH", "")
    skips.require("nginx")

def test_in_a_fixture(server): pass
def test_in_a_test(monkeypatch):
    monkeypatch.setenv("PATH", "")
    skips.require("memcached")
@pytest.mark.skipif(True, reason="no curl here")
def test_by_a_mark(): pass
def test_by_an_import(): pytest.importorskip("no_such_module_anywhere")
"""
OTHER = """
import pytest
@pytest.mark.skipif(True, reason="only root can")
def test_for_root(): pass
@pytest.mark.xfail(reason="needs the Debian package that is not written yet")
def test_later(): assert False
def test_good(): pass
"""
MODULE = 'import pytest\npytest.skip("needs the Debian package curl", allow_module_level=True)\n'


def run(directory: Path, strict: bool, **files: str) -> str:
    (directory / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    ours = {"PYTHONPATH": str(ROOT), VARIABLE: "1" if strict else "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    done = subprocess.run(command, cwd=directory, env=os.environ | ours, capture_output=True, text=True, check=False)
    return done.stdout


def test_a_missing_program_skips_and_names_the_package(tmp_path: Path) -> None:
    said = run(tmp_path, False, test_needs=NEEDS)
    assert "4 skipped" in said
    assert "needs the Debian package nginx-light" in said
    assert "needs the Debian package memcached" in said


def test_where_nothing_may_be_left_out_each_of_them_fails(tmp_path: Path) -> None:
    said = run(tmp_path, True, test_needs=NEEDS)
    summary = said.splitlines()[-1]
    assert "2 failed, 2 errors" in summary
    assert "skipped" not in summary
    assert "needs the Debian package nginx-light" in said


def test_a_module_that_skips_itself_fails_there_too(tmp_path: Path) -> None:
    assert "1 skipped" in run(tmp_path, False, test_module=MODULE)
    assert "1 error" in run(tmp_path, True, test_module=MODULE)


@pytest.mark.parametrize("strict", [False, True])
def test_other_skips_and_expected_failures_stay_what_they_are(tmp_path: Path, strict: bool) -> None:
    summary = run(tmp_path, strict, test_other=OTHER).splitlines()[-1]
    assert "1 passed, 1 skipped, 1 xfailed" in summary


def test_a_program_that_is_there_is_found() -> None:
    assert Path(require("sh")).is_file()
