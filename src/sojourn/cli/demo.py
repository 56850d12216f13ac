"""``sojourn demo``: a shop on several nodes of this machine, to click through and to kill nodes under."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from sojourn.connect import without_password
from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import BALANCERS
from sojourn.lab.settings import Settings

if TYPE_CHECKING:
    from sojourn.lab.demo import Started


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    about = "start a shop on several nodes behind a balancer; Ctrl-C ends all of it"
    parser = commands.add_parser("demo", help=about, description=about)
    parser.add_argument("--nodes", type=int, default=3, help="how many (default: 3)")
    where = "where sessions live, a store URL (default: local:); peers: for hosts with stores of their own"
    parser.add_argument("--store", default="local:", help=where)
    parser.add_argument("--balancer", choices=BALANCERS, default="caddy", help="default: caddy")
    parser.add_argument("--port", type=int, default=0, help="of the balancer; 0, the default, takes any free one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the demo and print what has been started."""
    try:
        from sojourn.lab.demo import demo  # noqa: PLC0415  (needs an extra)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed; run: pip install 'sojourn[demo]'") from error
    try:
        settings = Settings(nodes=args.nodes, store=args.store, balancer=args.balancer, port=args.port)
    except ConfigurationError as error:
        print(f"sojourn demo: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    demo(settings, lambda started: print(render(started), flush=True))


def render(started: Started) -> str:
    """Return the URL, then a table of what runs."""
    rows = [
        ("", "port", "pid", "log"),
        *((p.name, str(p.port), str(p.pid), p.log or "this terminal") for p in started.processes),
    ]
    table = "\n".join(f"{name:10} {port:>6} {pid:>8}  {log}" for name, port, pid, log in rows)
    chosen = started.settings
    store = without_password(chosen.store)
    return f"{started.url}\n\n{table}\n\nstore {store}, balancer {chosen.balancer}. Ctrl-C ends all of it."
