"""``sojourn doctor``: what in the set-up of a session store puts sessions at risk."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sojourn.cli.urls import url_in
from sojourn.connect import connect
from sojourn.core.capability import Examinable, Finding, is_able
from sojourn.drive import StorePair
from sojourn.errors import ConfigurationError

WRONG, FOUND = 2, 3  # exit statuses: a wrong setting, findings; 1 is a store that cannot be asked


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    about = "say what in a store's set-up puts sessions at risk; status 3 if there is something"
    parser = commands.add_parser("doctor", help=about, description=about)
    parser.add_argument("store", help="a store URL, or env:NAME for a variable of the environment that holds one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine the store and print what was found; return the exit status."""
    try:
        findings = examine(url_in(args.store))
    except ConfigurationError as error:
        print(f"sojourn doctor: {error}", file=sys.stderr)
        return WRONG
    print(render(findings))
    return FOUND if findings else 0


def examine(url: str) -> list[Finding]:
    """Return what the store that *url* names finds about itself. Raises ConfigurationError, StoreUnavailable."""
    store: Any = connect(url)
    half: Any = store.blocking if isinstance(store, StorePair) else store
    if not is_able(half, Examinable):
        raise ConfigurationError(f"{type(half).__name__} has nothing to examine")
    try:
        findings: list[Finding] = half.examine()
        return findings
    finally:
        if callable(close := getattr(half, "close", None)):
            close()


def render(findings: list[Finding]) -> str:
    """Return the findings as text, three lines each."""
    if not findings:
        return "Nothing here puts sessions at risk."
    return "\n\n".join(f"{one.what}\n    risk: {one.risk}\n    cure: {one.cure}" for one in findings)
