"""Read a small form, and tell a browser from curl."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_BYTES = 4096  # of a body; the longest honest form here has under a hundred
MOST_FIELDS = 10


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of an urlencoded form. Raises HTTPException 400 or 413."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"a form here has at most {MOST_BYTES} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise HTTPException(400, "this is no urlencoded form in UTF-8") from error


def wants_page(request: Request) -> bool:
    """Tell whether to answer with a page. Browsers ask for HTML by name; curl takes anything and gets JSON."""
    return "text/html" in request.headers.get("accept", "")
