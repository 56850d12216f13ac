"""The command ``sojourn``. Each subcommand is one call into the library and one way to print it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sojourn.cli import cluster, demo, doctor
from sojourn.errors import SojournError


def main(argv: Sequence[str] | None = None) -> int:
    """Run *argv*; return the exit status: 0, 1 for a failure; a command may have others. A wrong usage exits with 2."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except SojournError as error:
        print(f"sojourn {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells count it: 128 and the number of the signal


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(prog="sojourn", description="Sessions for applications on more than one node.")
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo.add_to(commands)
    doctor.add_to(commands)
    cluster.add_to(commands)
    return top


class _Version(argparse.Action):
    """Look the version up only when asked: reading package metadata takes longer than most commands."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"sojourn {version('sojourn')}")
        parser.exit()
