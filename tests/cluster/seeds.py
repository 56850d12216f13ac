"""Runs seeds of the simulation in a process of their own: there the order of a set is the same each time."""

from __future__ import annotations

import os
import subprocess
import sys


def run(first: int, last: int) -> None:
    """Fail with the story of the first seed that breaks a promise, and how to repeat it."""
    command = [sys.executable, "-m", "sojourn.testing.simulation", "--seeds", str(first), str(last), "--jobs", "1"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-4_000:]}"
    assert f"{last - first} histories" in done.stdout
    assert " 0 with a broken promise" in done.stdout
