"""Programs that tests need: skip with the name of the Debian package, and let no such skip pass where it must not.

``SOJOURN_NO_SKIPS=1`` (set by ``.ci/run``, which installs every program first) turns a skip for a missing program
into a failure. Skips for what a machine cannot be given, such as root or another kernel, stay skips.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator

import pytest

VARIABLE = "SOJOURN_NO_SKIPS"
PACKAGES = {
    "redis-server": "redis-server",
    "memcached": "memcached",
    "nginx": "nginx-light",
    "curl": "curl",
    "ip": "iproute2",
    "chromium": "chromium",
}
SYSTEM = "/usr/sbin:/usr/local/sbin"  # where Debian keeps servers, and where an ordinary user's PATH does not look

# The words of `require` below, and those that the other tests use for a program or a package that is not there.
MISSING = re.compile(r"needs the Debian package|apt-get install|is not installed|\bno \w+ here\b|could not import")


def require(program: str) -> str:
    """Return the path of *program*; where there is none, skip the test and name the Debian package that has it."""
    if (found := find(program)) is None:
        pytest.skip(f"needs the Debian package {PACKAGES.get(program, program)}")
    return found


def find(program: str) -> str | None:
    """Return the path of *program*, or None."""
    return shutil.which(program) or shutil.which(program, path=SYSTEM)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge the skips of tests and fixtures."""
    report = yield
    judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge the skips of whole modules."""
    report = yield
    judge(report)
    return report


def judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for a missing program into a failure where the environment says so."""
    if os.environ.get(VARIABLE) == "1" and report.skipped and MISSING.search(reason := reason_of(report)):
        report.outcome = "failed"
        report.longrepr = f"{reason}\n({VARIABLE}=1: this run must leave nothing out)"


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why *report* was skipped; empty for an expected failure, which is no skip."""
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
