"""The machine in general words: no host name, no path, nothing that tells where it stands."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version

from bench.rounds import Spread, Stopwatch, spread
from bench.table import say, table, title

_PACKAGES = (
    *("starlette", "uvicorn", "h11", "litestar", "flask", "werkzeug", "itsdangerous", "lmdb", "msgspec"),
    *("redis", "hiredis", "pymemcache", "aiomcache", "starsessions", "Flask-Session"),
)


def describe() -> None:
    """Print what the numbers were measured on."""
    title("Machine")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    rows = (
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{memory:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("packages", ", ".join(f"{name} {version(name)}" for name in _PACKAGES)),
        ("date", time.strftime("%Y-%m-%d")),
    )
    table(("what", "is"), rows, numbers=False)
    yardstick("at the start")


def yardstick(when: str) -> None:
    """Print how long a fixed piece of Python takes now, which shows how busy and how steady the machine is."""
    took = _yardstick()
    load = os.getloadavg()[0]
    say(
        f"Yardstick {when}: `sum(range(1000))` takes {took} µs of CPU; the load average is {load:.1f}. "
        "A wide spread, or another yardstick at the end, means that others used the machine."
    )


def _yardstick() -> Spread:
    took = []
    for _ in range(200):
        watch = Stopwatch()
        for _ in range(50):
            sum(range(1000))
        took.append(watch.per(50).cpu)
    return spread(took)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
