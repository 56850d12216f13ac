"""How long a hostile Cookie header of 64 KB keeps the server busy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie

from bench.rounds import check, spread
from bench.table import say, table, title, verdict
from sojourn import Cookie, SessionManager

SIZE = 65_536  # octets; a server that takes more is asking for it, and ours reads no more
NAME = Cookie().name
GOAL_MS = 50
PEER_LIMIT = 8_192  # octets that http.cookies gets: on 64 KB it takes seconds


def _filled(piece: str, size: int = SIZE) -> bytes:
    """Return *piece* again and again, *size* octets in all."""
    return (piece.encode("latin-1") * (size // len(piece) + 1))[:size]


def _numbered(template: str, size: int = SIZE) -> bytes:
    """Return *template* with another number each time, *size* octets in all."""
    return "; ".join(template.format(number) for number in range(size // len(template)))[:size].encode()


HEADERS: dict[str, Callable[[int], bytes]] = {
    "only semicolons": lambda size: _filled(";", size),
    "only equals signs": lambda size: _filled("=", size),
    "only spaces": lambda size: _filled(" ", size),
    "only quotes": lambda size: _filled('"', size),
    "one quoted value of backslashes": lambda size: f'{NAME}="'.encode() + _filled("\\", size - 13) + b'"',
    "escaped octets in one quoted value": lambda size: f'{NAME}="'.encode() + _filled("\\012", size - 13) + b'"',
    "one value of our name": lambda size: f"{NAME}=".encode() + _filled("a", size - 11),
    "our name, no separator": lambda size: _filled(f"{NAME}=", size),
    "our name in each pair, one value": lambda size: _filled(f"{NAME}=a;", size),
    "our name in each pair, different values": lambda size: _numbered(NAME + "={:05}", size),
    "our name at the end of other names": lambda size: _filled(f"x{NAME}=a; ", size),
    "our name behind spaces": lambda size: _filled(" " * 64 + f"{NAME}=a;", size),
    "our name inside other values": lambda size: _filled(f"x={NAME}=a; ", size),
    "the beginning of our name": lambda size: _filled(NAME[:-1], size),
    "many honest pairs": lambda size: _numbered("name{:05}=value", size),
    "octets above 127": lambda size: _filled("\xff\xfe", size),
    "controls": lambda size: _filled("\x00\x01\x7f", size),
}


def _milliseconds(work: Callable[[], object], times: int) -> list[float]:
    took = []
    for _ in range(times):
        start = time.process_time_ns()
        work()
        took.append((time.process_time_ns() - start) / 1e6)
    return took


def _row(name: str, manager: SessionManager, times: int) -> tuple[list[float], tuple[object, ...]]:
    header = HEADERS[name](SIZE)
    check(SIZE - 64 <= len(header) <= SIZE, f"{name}: {len(header)} octets")
    parsing = _milliseconds(lambda: manager.cookie.read([header]), times)
    opening = _milliseconds(lambda: _look(manager, header), times)
    small = HEADERS[name](PEER_LIMIT).decode("latin-1")
    peer = _milliseconds(lambda: _peer(small), 3)
    cells = f"{spread(parsing).median:.3f}", f"{max(parsing):.3f}", f"{max(opening):.3f}", f"{spread(peer).median:.3f}"
    return opening, (name, *cells)


def _look(manager: SessionManager, header: bytes) -> None:
    """Do all that a request does with its cookies: parse, check the ids, ask the store."""
    check("user" not in manager.begin(lambda source: [header], None), "a hostile cookie opened a session")


def _peer(text: str) -> None:
    with suppress(CookieError):
        SimpleCookie(text)


def report(quick: bool = False) -> None:
    """Print the table."""
    title("Hostile Cookie headers")
    say(
        f"Each header has {SIZE:,} octets. Parsing is our parser alone; the look is all that a request does until it "
        f"knows that nobody is logged in. http.cookies, for scale, gets {PEER_LIMIT:,} octets of the same. CPU time."
    )
    manager = SessionManager("memory:")
    rows = [_row(name, manager, 10 if quick else 100) for name in HEADERS]
    heads = ("header", "parsing, ms", "parsing, slowest, ms", "look, slowest, ms", "http.cookies on an eighth, ms")
    table(heads, [cells for _, cells in rows])
    slowest = max(max(opening) for opening, _ in rows)
    say(f"The slowest look took {slowest:.2f} ms; {verdict(slowest, GOAL_MS, ' ms')}.")


if __name__ == "__main__":
    report("--quick" in sys.argv)
