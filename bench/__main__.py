"""Run the benchmarks and print their tables as Markdown.

    python -m bench [--quick] [PART ...]

Parts: selfcheck, operations, parts, requests, hostile, imports, servers, server_requests, principals, million,
replication, scale; all of them when none is named.
``--quick`` shows in two minutes that everything works; its numbers are too rough to quote.
"""

from __future__ import annotations

import argparse

from bench import (
    hostile,
    imports,
    machine,
    million,
    operations,
    parts,
    principals,
    replication,
    requests,
    scale,
    selfcheck,
    server_requests,
    servers,
)
from bench.table import say, title

PARTS = {
    "selfcheck": selfcheck.report,
    "operations": operations.report,
    "parts": parts.report,
    "requests": requests.report,
    "hostile": hostile.report,
    "imports": imports.report,
    "servers": servers.report,
    "server_requests": server_requests.report,
    "principals": principals.report,
    "million": million.report,
    "replication": replication.report,
    "scale": scale.report,
}


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What sessions cost, as Markdown tables.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: shows that it works, gives no quotable numbers"
    )
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    title("Benchmarks of sojourn", 1)
    if chosen.quick:
        say("A quick run: too few rounds to quote.")
    machine.describe()
    for name in chosen.parts or PARTS:
        PARTS[name](chosen.quick)
    title("Afterwards")
    machine.yardstick("at the end")


if __name__ == "__main__":
    main()
