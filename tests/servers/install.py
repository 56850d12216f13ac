"""Install the Debian packages of the programs that tests need: ``python -m tests.servers.install``.

It does nothing where all programs are there, and where it may not (no root, no apt-get): then tests skip and name the
package. With ``SOJOURN_NO_SKIPS=1`` it installs Chromium, too, which is large, and fails when any is still missing.

No service starts and none is enabled: tests start servers of their own, and the machine stays as it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.skips import PACKAGES, VARIABLE, find

LARGE = {"chromium"}
POLICY = Path("/usr/sbin/policy-rc.d")  # asked before a package starts a service; 101 forbids it
SERVICES = ("redis-server", "memcached", "nginx")


def main() -> int:
    """Install what is missing, and return the exit status."""
    strict = os.environ.get(VARIABLE) == "1"
    wanted = [program for program in PACKAGES if strict or program not in LARGE]
    if (lacking := missing(wanted)) and os.geteuid() == 0 and shutil.which("apt-get"):
        install(sorted({PACKAGES[program] for program in lacking}))
    lacking = missing(wanted)
    for program in lacking:
        print(f"{program} is not there; its tests need the Debian package {PACKAGES[program]}", file=sys.stderr)
    return int(strict and bool(lacking))


def missing(programs: Sequence[str]) -> list[str]:
    """Return those of *programs* that are not installed."""
    return [program for program in programs if find(program) is None]


def install(packages: Sequence[str]) -> None:
    """Install *packages* with apt-get; leave it to the caller to see what came of it."""
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    with no_services():
        if apt("update"):
            apt("install", "--yes", "--no-install-recommends", *packages)
    for service in set(SERVICES) & {name.removesuffix("-light") for name in packages}:
        subprocess.run(["update-rc.d", service, "disable"], capture_output=True, check=False)


def apt(*arguments: str) -> bool:
    """Run ``apt-get``; on failure print what it said."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "--quiet", *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-1000:] + done.stderr[-2000:], file=sys.stderr)
    return done.returncode == 0


@contextmanager
def no_services() -> Iterator[None]:
    """Forbid packages to start services while they are installed, unless the machine has its own policy."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    sys.exit(main())
