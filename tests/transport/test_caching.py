"""What caches are told: checklist items 17 to 20, group F."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from sojourn.transport import caching
from sojourn.transport.cookie import Cookie

from .jar import Jar
from .shared_cache import Request, Response, SharedCache, directives


@pytest.mark.parametrize(
    ("existing", "merged"),
    [
        ([], "Cookie"),
        ([""], "Cookie"),
        (["Accept-Encoding"], "Accept-Encoding, Cookie"),
        (["Accept-Encoding", "Origin"], "Accept-Encoding, Origin, Cookie"),
        (["accept , ,\torigin"], "accept, origin, Cookie"),
        (["X-Cookie", "Cookie2", "Set-Cookie"], "X-Cookie, Cookie2, Set-Cookie, Cookie"),
        (["Cookie"], None),
        (["Accept, COOKIE"], None),
        (["Accept", "cookie"], None),
        (["*"], None),
        (["Accept", " * "], None),
    ],
)
def test_vary_names_cookie_once_and_keeps_the_rest(existing: list[str], merged: str | None) -> None:
    assert caching.vary(existing) == merged


def test_vary_is_settled_after_one_merge() -> None:
    for existing in ([], ["Accept"], ["Accept, Origin", "X-A"]):
        merged = caching.vary(existing)
        assert merged is not None
        assert caching.vary([merged]) is None


@pytest.mark.parametrize(
    ("existing", "result"),
    [
        ([], "no-store"),
        ([""], "no-store"),
        (["no-store"], "no-store"),
        (["no-cache"], "no-store"),
        (["max-age=60"], "no-store"),
        (["public"], "no-store"),
        (["public, max-age=31536000, immutable"], "no-store"),
        (["s-maxage=600"], "no-store"),
        (["PUBLIC", "S-MaxAge=600"], "no-store"),
        (["must-understand, no-store"], "no-store"),
        (["private"], "private"),
        (["private, max-age=60"], "private, max-age=60"),
        (["Private", "Max-Age=60"], "Private, Max-Age=60"),
        (["private,no-store"], "private, no-store"),
        (["public, private, max-age=60"], "private, max-age=60"),
        (["private, PUBLIC, S-MAXAGE=5, no-transform"], "private, no-transform"),
        (["public=1, private"], "private"),
        (["private, max-age = 60"], "no-store"),
        (["private, s-maxage =60"], "no-store"),
        (["private; max-age=60"], "no-store"),
        # A qualified private leaves the rest of the page to shared caches.
        (['private="set-cookie"'], "no-store"),
        (['private="set-cookie", max-age=60'], "no-store"),
        (["private=set-cookie"], "no-store"),
        (["private="], "no-store"),
        (["private, private=set-cookie"], "private"),
        # Inside or behind a quote, private is not private for every cache.
        (['private, community="UCI"'], "no-store"),
        (['community="a, private, b"'], "no-store"),
        (['x="', "private"], "no-store"),
        (['x="\\", private, y="'], "no-store"),
        (["unprivate, privately, x-private"], "no-store"),
    ],
)
def test_a_response_with_the_session_cookie_is_no_store_or_private(existing: list[str], result: str) -> None:
    """Item 19."""
    assert caching.forbid_shared_caching(existing) == result


def test_no_cache_control_survives_as_shareable() -> None:
    """Item 19, over random fields: never public nor s-maxage, always no-store or an unqualified private."""
    rng = random.Random(19)
    words = ["public", "private", "Public", "s-maxage=9", "S-MAXAGE", "no-store", "max-age=60", 'private="a, b"']
    words += ["private=a", "no-cache", 'x="', '"', "", " ", "\t", "immutable", "=", ",", "public=", "s-maxage ="]
    for _ in range(5_000):
        existing = [", ".join(rng.choices(words, k=rng.randrange(5))) for _ in range(rng.randrange(4))]
        result = caching.forbid_shared_caching(existing)
        said = directives(Response(200, [("cache-control", result)], ""))
        assert "public" not in said, existing
        assert "s-maxage" not in said, existing
        assert "no-store" in said or said["private"] == "", existing
        assert caching.forbid_shared_caching([result]) == result


def test_fields_that_caches_believe_more_than_cache_control_are_known() -> None:
    """Item 19: a delivery network that obeys a targeted field would not see our no-store."""
    for name in ("CDN-Cache-Control", "cloudflare-cdn-cache-control", "Surrogate-Control", "X-Accel-Expires"):
        assert caching.overrides_cache_control(name)
    for name in ("Cache-Control", "Vary", "Expires", "Content-Control", "X-Accel-Redirect"):
        assert not caching.overrides_cache_control(name)


# -- a small application behind a shared cache -------------------------------------------------------------

ORIGIN = "https://shop.example.com"
COOKIE = Cookie()


@dataclass
class Shop:
    """An application that does its best to be cached: every answer asks for it, and GET does everything.

    Who is asking comes with the request, as from a client certificate; only the login looks at it.
    """

    add_vary: Callable[[Sequence[str]], str | None] = caching.vary
    forbid: Callable[[Sequence[str]], str] = caching.forbid_shared_caching
    owners: dict[str, str] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)

    def __call__(self, request: Request) -> Response:
        wish = {
            "/static": "public, max-age=600",
            "/hello": "public, max-age=60",
            "/heuristic": "",
            "/login": "public, s-maxage=600",
            "/renew": 'private="set-cookie", max-age=60',
            "/logout": "public",
        }[request.path]
        headers = [("cache-control", wish)] if wish else []
        if request.path == "/static":
            return Response(200, headers, "static")
        return self._with_session(request, headers)

    def _with_session(self, request: Request, headers: list[tuple[str, str]]) -> Response:
        token = self._token(request)
        who, line = self.owners.get(token, "nobody"), None
        if request.path == "/login":
            who = request.headers["x-user"]
            line = COOKIE.issue(self._new(who))
        elif token and request.path == "/renew":
            line = COOKIE.issue(self._new(who))
        elif token and request.path == "/logout":
            line = COOKIE.expire()
        if line is not None:
            self.live.discard(token)
        return Response(200, self._covered(headers, line), who)

    def _token(self, request: Request) -> str:
        sent = COOKIE.read([request.headers["cookie"]]) if "cookie" in request.headers else ()
        return sent[0] if len(sent) == 1 and sent[0] in self.live else ""

    def _new(self, who: str) -> str:
        token = f"{who}-{len(self.owners)}"
        self.owners[token] = who
        self.live.add(token)
        return token

    def _covered(self, headers: list[tuple[str, str]], line: str | None) -> list[tuple[str, str]]:
        """What an adapter does: Vary for a look, and with a cookie Cache-Control too."""
        if varied := self.add_vary([value for name, value in headers if name == "vary"]):
            headers = [*headers, ("vary", varied)]
        if line is None:
            return headers
        wish = self.forbid([value for name, value in headers if name == "cache-control"])
        headers = [pair for pair in headers if pair[0] != "cache-control"]
        return [*headers, ("cache-control", wish), ("set-cookie", line)]


@dataclass
class Visit:
    """One request of one user, and what came back through the cache."""

    user: str
    path: str
    response: Response

    def leaks(self, owners: dict[str, str]) -> bool:
        """Whether the user got the page or the cookie of somebody else."""
        cookies = [value.partition(";")[0].partition("=")[2] for value in self.response.values("set-cookie")]
        foreign = any(owners.get(token, self.user) != self.user for token in cookies)
        return foreign or self.response.body not in ("static", "nobody", self.user)


def visits(shop: Shop, count: int, seed: int = 20) -> tuple[list[Visit], SharedCache]:
    """Let three users click at random, *count* times, a second apart on average."""
    rng = random.Random(seed)
    cache = SharedCache(shop)
    jars = {user: Jar() for user in ("alice", "bob", "carol")}
    made = []
    for _ in range(count):
        user = rng.choice(list(jars))
        path = rng.choices(("/static", "/hello", "/heuristic", "/login", "/renew", "/logout"), (3, 6, 6, 1, 1, 1))[0]
        cache.now += rng.expovariate(1)
        headers = {"x-user": user}
        if sent := jars[user].send(ORIGIN + path):
            headers["cookie"] = sent
        response = cache(Request(rng.choice(("GET", "GET", "GET", "POST")), path, headers))
        jars[user].receive(ORIGIN + path, *response.values("set-cookie"))
        made.append(Visit(user, path, response))
    return made, cache


def test_users_behind_a_shared_cache_never_get_each_others_page_or_cookie() -> None:
    """Item 20; the cache did serve, and logged-in users did get their own pages from it."""
    shop = Shop()
    made, cache = visits(shop, 10_000)
    assert [visit for visit in made if visit.leaks(shop.owners)] == []
    assert cache.hits > 3_000
    assert {visit.response.body for visit in made} == {"static", "nobody", "alice", "bob", "carol"}


@pytest.mark.parametrize(
    "careless",
    [
        Shop(add_vary=lambda existing: None),
        Shop(forbid=lambda existing: ", ".join(existing)),
        Shop(forbid=lambda existing: ", ".join([*existing, "max-age=0"])),
        Shop(forbid=lambda existing: 'private="set-cookie"', add_vary=lambda existing: "Accept"),
    ],
    ids=["no Vary", "the application's wish", "max-age beside s-maxage", "a qualified private"],
)
def test_the_shared_cache_catches_a_careless_application(careless: Shop) -> None:
    """Proof that item 20 can fail: without Vary, or without no-store, users get what is not theirs."""
    made, _ = visits(careless, 2_000)
    assert any(visit.leaks(careless.owners) for visit in made)


def test_only_what_changes_the_session_sets_a_cookie_and_every_look_varies() -> None:
    """Items 17 to 19 as far as this layer goes: seen at the origin, without a cache between."""
    shop = Shop()
    token = shop._new("alice")
    for path in ("/hello", "/heuristic", "/login", "/renew", "/logout"):
        request = Request("GET", path, {"x-user": "alice", "cookie": f"{COOKIE.name}={token}"})
        response = shop(request)
        assert response.values("vary") == ["Cookie"]
        sets = bool(response.values("set-cookie"))
        assert sets == (path in ("/login", "/renew", "/logout"))
        assert not sets or response.values("cache-control") == ["no-store"]
        shop.live.add(token)
