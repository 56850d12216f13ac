"""How long ``import sojourn`` takes in a fresh interpreter, and what it brings along."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time

from bench.rounds import check, spread
from bench.table import say, table, title, verdict

GOAL_MS = 30
USED = "from sojourn import SessionManager"
STATEMENTS = (
    "pass",
    "import sojourn",
    USED,
    "import msgspec",
    "import starlette.applications",
    "import flask",
)
FORBIDDEN = {"lmdb", "starlette", "flask", "werkzeug", "uvicorn", "django", "redis", "sqlite3", "anyio", "itsdangerous"}
_LIST = "import sys; bare = set(sys.modules); {}; print(' '.join(sorted(set(sys.modules) - bare)))"


def _run(statement: str, cache: str) -> tuple[float, float]:
    """Run *statement* in a fresh interpreter; return the milliseconds on the wall and of CPU."""
    # An installed package has its byte code. Here it is kept in a place of our own, whatever the environment says.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPYCACHEPREFIX"] = cache
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", statement], env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    wall = (time.perf_counter() - start) * 1000
    child.returncode = os.waitstatus_to_exitcode(status)
    check(child.returncode == 0, f"{statement!r} failed")
    return wall, (usage.ru_utime + usage.ru_stime) * 1000


def _measure(rounds: int) -> dict[str, list[tuple[float, float]]]:
    shuffled = random.Random(3)
    took: dict[str, list[tuple[float, float]]] = {statement: [] for statement in STATEMENTS}
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-") as cache:
        for number in range(rounds + 1):
            for statement in shuffled.sample(STATEMENTS, len(STATEMENTS)):
                pair = _run(statement, cache)
                if number:  # the first one writes byte code
                    took[statement].append(pair)
    return took


def _imported(statement: str) -> list[str]:
    command = [sys.executable, "-c", _LIST.format(statement)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("Import")
    took = _measure(8 if quick else 60)
    say(
        "Fresh interpreters, interleaved, with byte code; what is added is taken within each round. The package loads "
        f"its names when they are first asked for, so `import sojourn` alone says little: `{USED}` is what an "
        "application pays, and it is held to the same goal here. msgspec, which the codec stands on, and two "
        "frameworks stand by for scale."
    )
    rows: list[tuple[object, ...]] = []
    for statement in STATEMENTS:
        added = [ours[0] - bare[0] for ours, bare in zip(took[statement], took["pass"], strict=True)]
        wall, cpu = spread([pair[0] for pair in took[statement]]), spread([pair[1] for pair in took[statement]])
        judged = verdict(spread(added).median, GOAL_MS, " ms") if "sojourn" in statement else ""
        rows.append((f"`{statement}`", wall, cpu, "" if statement == "pass" else spread(added), judged))
    table(("statement", "on the wall, ms", "CPU, ms", "added on the wall, ms", "goal"), rows)
    for statement in ("import sojourn", USED):
        _say_what_came_along(statement, _imported(statement))


def _say_what_came_along(statement: str, modules: list[str]) -> None:
    packages = sorted({module.partition(".")[0] for module in modules})
    foreign = [name for name in packages if name not in sys.stdlib_module_names]
    found = sorted(FORBIDDEN & set(packages))
    ours = [module for module in modules if module.partition(".")[0] == "sojourn"]
    own = ", ".join(f"`{name}`" for name in ours)
    say(f"`{statement}` loads {len(modules)} modules, {len(ours)} of them its own: {own}.")
    say(f"From outside of the standard library: {', '.join(foreign)}.")
    say(f"Drivers and frameworks among them: {', '.join(found) or 'none'}: {'MISS' if found else 'PASS'}.")


if __name__ == "__main__":
    report("--quick" in sys.argv)
