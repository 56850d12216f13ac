"""Fills a host with sessions of a size, by processes of its own, so that the measuring one stays small."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench.rounds import check
from bench.sessions import NOW, Records, key_of
from sojourn.connect import connect
from sojourn.core.ops import Written
from sojourn.drive import StorePair

LIFE = 86400.0  # seconds


def fill(url: str, sessions: int, size: int) -> None:
    """Create *sessions* on the host of *url*, whose frames have *size* bytes; nobody waits for other hosts."""
    command = [sys.executable, "-m", "bench.replica_fill", url, str(sessions), str(size)]
    check(subprocess.run(command, check=False).returncode == 0, "the host is filled")


def main() -> None:
    """Fill."""
    url, sessions, size = sys.argv[1:]
    store: Any = connect(f"{url}&acks=0")
    check(isinstance(store, StorePair), "a pair of stores")
    records, now = Records(int(size)), time.time()
    for number in range(int(sessions)):
        record = records.make(number, NOW)._replace(created_at=now, accessed_at=now, expires_at=now + LIFE)
        check(store.blocking.create(key_of(number), record) is Written.DONE, "a session begins")


if __name__ == "__main__":
    main()
