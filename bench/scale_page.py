"""Puts what ``scale`` has printed into ``docs/scale.md``, so that no number there was written by hand.

    python -m bench.scale_page RESULTS [PAGE]

RESULTS is a file that has the output of ``python -m bench scale``. In the page each pair of comments
``<!-- from results: HEADING -->`` and ``<!-- to here -->`` holds the text under that heading.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bench.rounds import check

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
_PLACE = re.compile(r"(<!-- from results: (.+?) -->\n)(.*?)(<!-- to here -->)", re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def sections(results: str) -> dict[str, str]:
    """Return the text under each heading; of two that are alike the last."""
    parts = _HEADING.split(results)
    return {heading: text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def filled(page: str, results: str) -> str:
    """Return the page with what the results say. Raises Broken where they lack a heading that it names."""
    found = sections(results)

    def put(place: re.Match[str]) -> str:
        begin, heading, _, end = place.groups()
        check(heading in found, f"the results have {heading!r}")
        return f"{begin}\n{found[heading]}\n\n{end}"

    return _PLACE.sub(put, page)


def main() -> None:
    """Fill the page."""
    results, page = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else PAGE
    page.write_text(filled(page.read_text(), results.read_text()))


if __name__ == "__main__":
    main()
