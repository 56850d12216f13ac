"""The CPU time that sessions add to a request: ASGI in process and served, WSGI and Flask in process."""

from __future__ import annotations

import sys

from bench import asgi_direct, asgi_served, visitor, wsgi_direct
from bench.table import say, title


def report(quick: bool = False) -> None:
    """Print all tables."""
    title("Requests")
    say(
        f"The visitor has {visitor.SIZE} bytes of user data (as compact JSON) under five keys. All applications take "
        "turns in each round. Each cell is the median of all rounds, with the quartiles. What is added, and the share "
        "of the peer's, are taken inside of each round. The bare application is there twice: the difference between "
        "the two is noise. Every answer is checked after the clock has stopped, and after each batch of writes another "
        "request must read the last one."
    )
    asgi_direct.report(quick)
    asgi_served.report(quick)
    wsgi_direct.report(quick)


if __name__ == "__main__":
    report("--quick" in sys.argv)
