"""A shared cache for tests, as greedy as the law allows: a subset of RFC 9111.

It keeps and reuses every response that the RFC lets a shared cache keep, Set-Cookie included, and guesses a lifetime
where none is given. Left out: validation (a stale response is fetched anew), Age, Range, HEAD and Authorization.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

GUESSED_LIFETIME = 30.0  # seconds; heuristic freshness (4.2.2)
HEURISTIC = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}  # RFC 9110, 15.1


@dataclass(frozen=True)
class Request:
    """What a browser asks; field names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """What it gets; field names are in lower case and may repeat."""

    status: int
    headers: list[tuple[str, str]]
    body: str

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Kept(NamedTuple):
    """A stored response with the request that brought it."""

    request: Request
    response: Response
    stale_at: float


@dataclass
class SharedCache:
    """Stands before *origin*. Set ``now``, in seconds, to let time pass."""

    origin: Callable[[Request], Response]
    now: float = 0.0
    hits: int = 0
    kept: dict[str, list[Kept]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            for kept in self.kept.get(request.path, []):
                if kept.stale_at > self.now and _selected(kept, request):
                    self.hits += 1
                    return kept.response
        else:
            self.kept.pop(request.path, None)  # 4.4
        response = self.origin(request)
        if request.method == "GET" and (lifetime := _lifetime(response)) > 0:
            kept = Kept(request, _without_private_fields(response), self.now + lifetime)
            self.kept.setdefault(request.path, []).insert(0, kept)
        return response


def directives(response: Response) -> dict[str, str]:
    """The Cache-Control directives by lower-case name; the first of equals counts (4.2.1)."""
    found: dict[str, str] = {}
    for name, argument in re.findall(r'([\w-]+)(?:=("[^"]*"|[^\s,]*))?', ", ".join(response.values("cache-control"))):
        found.setdefault(name.lower(), argument.strip('"'))
    return found


def _lifetime(response: Response) -> float:
    """Seconds for which a shared cache may reuse the response; 0 to keep none of it (3; 4.2.1; 5.2.2)."""
    said = directives(response)
    if "no-store" in said or said.get("private") == "" or said.get("no-cache") == "":
        return 0
    for name in ("s-maxage", "max-age"):
        if name in said:
            return float(said[name]) if said[name].isdecimal() else 0
    return GUESSED_LIFETIME if response.status in HEURISTIC or "public" in said else 0


def _without_private_fields(response: Response) -> Response:
    """Drop what ``private="field"`` and ``no-cache="field"`` name; the rest may be kept (5.2.2.4, 5.2.2.7)."""
    said = directives(response)
    secret = {name.strip().lower() for key in ("private", "no-cache") for name in said.get(key, "").split(",")}
    headers = [pair for pair in response.headers if pair[0] not in secret]
    return Response(response.status, headers, response.body)


def _selected(kept: Kept, request: Request) -> bool:
    """Whether the fields that Vary names are the same in both requests; an absent one matches an absent one (4.1)."""
    names = [name.strip().lower() for value in kept.response.values("vary") for name in value.split(",")]
    return "*" not in names and all(kept.request.headers.get(n) == request.headers.get(n) for n in names)
