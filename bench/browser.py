"""The header fields that a browser sends with a request, beside the session cookie and two others."""

from __future__ import annotations

FIELDS = (
    ("host", "localhost:8000"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "sv-SE,sv;q=0.8,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br"),
    ("referer", "http://localhost:8000/shop"),
)


def cookies(session: bytes) -> bytes:
    """Return the Cookie field: the session's between two of the application's."""
    return b"theme=dark; " + session + b"; consent=2026-11-01"
