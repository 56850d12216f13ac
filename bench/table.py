"""Markdown tables and verdicts. Each script prints what it measured; a results file is that text, pasted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def title(text: str, level: int = 2) -> None:
    """Print a heading."""
    print(f"\n{'#' * level} {text}\n", flush=True)


def say(text: str) -> None:
    """Print a paragraph."""
    print(f"{text}\n", flush=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = True) -> None:
    """Print a table. The first column is text; the others stand to the right if they are *numbers*."""
    print(f"| {' | '.join(heads)} |")
    print(f"|{'|'.join(['---', *['---:' if numbers else '---'] * (len(heads) - 1)])}|")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    print(flush=True)


def verdict(measured: float, most: float, unit: str = "") -> str:
    """Say whether *measured* is at most *most*. It is said, and nothing fails."""
    return f"at most {most:g}{unit}: {'PASS' if measured <= most else 'MISS'}"
