"""A strict user agent for tests: what a browser keeps of each Set-Cookie, and what it sends back.

Follows RFC 6265bis (draft-ietf-httpbis-rfc6265bis-22, section 5), with the ``Http-`` prefixes and partitions of the
later drafts, as slowly and as plainly as the text. Strings stand for octets, one Latin-1 character each.
Left out: cookies set by scripts, eviction of excess cookies, Lax-allowing-unsafe, and internationalized names.

Below the jar stand the cases of the http-state working group (github.com/abarth/http-state, tests/data), with
shorter paths: what agents of 2010 did, and where 6265bis has since decided otherwise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

LIFETIME_LIMIT = 34_560_000  # seconds (5.5)
SUFFIXES = {"com", "org", "net", "example", "test", "uk", "co.uk"}  # a public suffix list in small
PREFIXES = ("__secure-", "__host-", "__http-", "__host-http-")
SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}


@dataclass(frozen=True)
class Place:
    """Where a request goes."""

    scheme: str
    host: str
    path: str

    @classmethod
    def of(cls, url: str) -> "Place":
        parts = urlsplit(url)
        return cls(parts.scheme, (parts.hostname or "").lower(), parts.path or "/")

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def site(self) -> tuple[str, str]:
        """The scheme and the registrable domain (5.2)."""
        labels = self.host.split(".")
        for start in range(1, len(labels)):
            if ".".join(labels[start:]) in SUFFIXES:
                return self.scheme, ".".join(labels[start - 1 :])
        return self.scheme, self.host


@dataclass(frozen=True)
class Stored:
    """A cookie at rest in the browser (5.7)."""

    name: str
    value: str
    domain: str
    host_only: bool
    path: str
    secure: bool
    http_only: bool
    same_site: str
    partition: tuple[str, str] | None
    expires: float | None
    created: int

    @property
    def place(self) -> tuple[object, ...]:
        """What makes two cookies the same cookie (5.7, step 23)."""
        return self.name, self.domain, self.host_only, self.path, self.partition


@dataclass
class Jar:
    """All cookies of one browser. Set ``now``, seconds since the epoch, to let time pass."""

    now: float = 1_700_000_000.0
    cookies: list[Stored] = field(default_factory=list)
    _count: int = 0

    def receive(self, url: str, *set_cookies: str, top: str | None = None, navigates: bool = True) -> None:
        """Process the Set-Cookie values of a response from *url*.

        *top* is the page in the address bar, the answering one unless told otherwise; *navigates* says whether
        the request was to replace that page.
        """
        for line in set_cookies:
            cookie = self._judge(line, Place.of(url), Place.of(top or url), navigates)
            if cookie:
                self._keep(cookie)

    def send(self, url: str, *, top: str | None = None, method: str = "GET", navigates: bool = True) -> str:
        """Return the Cookie value of a request for *url*; empty if there is no such field (5.8.3)."""
        place, page = Place.of(url), Place.of(top or url)
        lax = navigates and method in SAFE_METHODS
        self._forget_the_expired()
        matching = [cookie for cookie in self.cookies if _goes_to(cookie, place, page, lax)]
        matching.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        return "; ".join(f"{cookie.name}={cookie.value}" if cookie.name else cookie.value for cookie in matching)

    def _judge(self, line: str, place: Place, page: Place, navigates: bool) -> Stored | None:
        parsed = parse_set_cookie(line)
        if parsed is None:
            return None
        name, value, attributes = parsed
        domain = attributes.get("domain", "")
        if domain in SUFFIXES:
            if domain != place.host:
                return None
            domain = ""
        if domain and not domain_matches(place.host, domain):
            return None
        path = attributes.get("path", "")
        self._count += 1
        cookie = Stored(
            name=name,
            value=value,
            domain=domain or place.host,
            host_only=not domain,
            path=path if path.startswith("/") else default_path(place.path),
            secure="secure" in attributes,
            http_only="httponly" in attributes,
            same_site=attributes.get("samesite", "").lower(),
            partition=page.site if "partitioned" in attributes else None,
            expires=self._expiry(attributes),
            created=self._count,
        )
        same_site = place.site == page.site
        refused = (
            (cookie.secure and not place.secure)
            or (not cookie.secure and not place.secure and self._overlays(cookie))
            or (cookie.same_site != "none" and not same_site and not navigates)
            or (cookie.same_site == "none" and not cookie.secure)
            or (cookie.partition and not cookie.secure)
            or not _prefix_holds(cookie, attributes)
        )
        return None if refused else cookie

    def _expiry(self, attributes: dict[str, str]) -> float | None:
        """The instant at which a cookie ends, or None for the end of the browser session (5.6.1, 5.6.2)."""
        if "max-age" in attributes:
            seconds = int(attributes["max-age"])
            return float("-inf") if seconds <= 0 else self.now + min(seconds, LIFETIME_LIMIT)
        if "expires" in attributes:
            date = parse_date(attributes["expires"])
            assert date is not None
            return min(date, self.now + LIFETIME_LIMIT)
        return None

    def _overlays(self, new: Stored) -> bool:
        """Whether a plain http response would hide a Secure cookie behind its own (5.7, step 16)."""
        return any(
            old.secure
            and old.name == new.name
            and (domain_matches(old.domain, new.domain) or domain_matches(new.domain, old.domain))
            and path_matches(new.path, old.path)
            for old in self.cookies
        )

    def _keep(self, new: Stored) -> None:
        for old in self.cookies:
            if old.place == new.place:
                new = replace(new, created=old.created)
        self.cookies = [old for old in self.cookies if old.place != new.place] + [new]
        self._forget_the_expired()

    def _forget_the_expired(self) -> None:
        self.cookies = [old for old in self.cookies if old.expires is None or old.expires > self.now]


def _goes_to(cookie: Stored, place: Place, page: Place, lax: bool) -> bool:
    return (
        (place.host == cookie.domain if cookie.host_only else domain_matches(place.host, cookie.domain))
        and path_matches(place.path, cookie.path)
        and (place.secure or not cookie.secure)
        and cookie.partition in (None, page.site)
        and (place.site == page.site or cookie.same_site == "none" or (cookie.same_site != "strict" and lax))
    )


def _prefix_holds(cookie: Stored, attributes: dict[str, str]) -> bool:
    """Whether the cookie is what its name promises; in any case of letters (5.4; 5.7, steps 20 to 22)."""
    name = cookie.name.lower()
    if not name:
        return not cookie.value.lower().startswith(PREFIXES)
    host = cookie.host_only and attributes.get("path") == "/"
    return not (
        (name.startswith(PREFIXES) and not cookie.secure)
        or (name.startswith("__host-") and not host)
        or (name.startswith(("__http-", "__host-http-")) and not cookie.http_only)
    )


def parse_set_cookie(line: str) -> tuple[str, str, dict[str, str]] | None:
    """Return name, value and the attributes that count, by lower-case name; None to ignore the line (5.6)."""
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
        return None
    pair, *unparsed = line.split(";")
    if "=" not in pair:
        pair = "=" + pair
    name, value = (part.strip(" \t") for part in pair.split("=", 1))
    if not name + value or len(name) + len(value) > 4096:
        return None
    attributes = {}
    for attribute in unparsed:
        key, _, text = attribute.partition("=")
        key, text = key.strip(" \t").lower(), text.strip(" \t")
        if len(text) <= 1024 and _counts(key, text):
            attributes[key] = text.removeprefix(".").lower() if key == "domain" else text
    return name, value, attributes


def _counts(attribute: str, text: str) -> bool:
    if attribute == "max-age":
        return re.fullmatch(r"-?[0-9]+", text) is not None
    if attribute == "expires":
        return parse_date(text) is not None
    return True


def domain_matches(host: str, domain: str) -> bool:
    """5.1.3."""
    return host == domain or (host.endswith("." + domain) and re.fullmatch(r"[0-9.]+", host) is None)


def path_matches(path: str, cookie_path: str) -> bool:
    """5.1.4."""
    return path == cookie_path or path.startswith(cookie_path.removesuffix("/") + "/")


def default_path(path: str) -> str:
    """5.1.4."""
    return path[: path.rfind("/")] or "/"


MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def parse_date(text: str) -> float | None:
    """Return seconds since the epoch, or None (5.1.1): each token is the first thing it can be."""
    time = day = month = year = None
    for token in re.split(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+", text):
        if time is None and (match := re.match(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])", token)):
            time = int(match[1]), int(match[2]), int(match[3])
        elif day is None and (match := re.match(r"([0-9]{1,2})(?![0-9])", token)):
            day = int(match[1])
        elif month is None and token[:3].lower() in MONTHS:
            month = MONTHS.index(token[:3].lower()) + 1
        elif year is None and (match := re.match(r"([0-9]{2,4})(?![0-9])", token)):
            year = int(match[1])
    if time is None or day is None or month is None or year is None:
        return None
    year += 1900 if 70 <= year <= 99 else 2000 if year <= 69 else 0
    if year < 1601:
        return None
    try:
        return datetime(year, month, day, *time, tzinfo=UTC).timestamp()
    except ValueError:
        return None


# -- http-state, tests/data/dates/examples.json: a date, and what it means in IMF-fixdate, None for nothing --

DATES: list[tuple[str, str | None]] = [
    ("Mon, 10-Dec-2007 17:02:24 GMT", "Mon, 10 Dec 2007 17:02:24 GMT"),
    ("Wed, 09 Dec 2009 16:27:23 GMT", "Wed, 09 Dec 2009 16:27:23 GMT"),
    ("Thursday, 01-Jan-1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("Mon Dec 10 16:32:30 2007 GMT", "Mon, 10 Dec 2007 16:32:30 GMT"),
    ("Wednesday, 01-Jan-10 00:00:00 GMT", "Fri, 01 Jan 2010 00:00:00 GMT"),
    ("Mon, 10-Dec-07 20:35:03 GMT", "Mon, 10 Dec 2007 20:35:03 GMT"),
    ("Wed, 1 Jan 2020 00:00:00 GMT", "Wed, 01 Jan 2020 00:00:00 GMT"),
    ("Saturday, 8-Dec-2012 21:24:09 GMT", "Sat, 08 Dec 2012 21:24:09 GMT"),
    ("Thu, 31 Dec 23:55:55 2037 GMT", "Thu, 31 Dec 2037 23:55:55 GMT"),
    ("Sun,  9 Dec 2012 13:42:05 GMT", "Sun, 09 Dec 2012 13:42:05 GMT"),
    ("Wed Dec 12 2007 08:44:07 GMT-0500 (EST)", "Wed, 12 Dec 2007 08:44:07 GMT"),
    ("Mon, 01-Jan-2011 00: 00:00 GMT", None),  # the file says 2011; a time has no blanks in it since RFC 6265
    ("Sun, 1-Jan-1995 00:00:00 GMT", "Sun, 01 Jan 1995 00:00:00 GMT"),
    ("Wednesday, 01-Jan-10 0:0:00 GMT", "Fri, 01 Jan 2010 00:00:00 GMT"),
    ("Thu, 10 Dec 2009 13:57:2 GMT", "Thu, 10 Dec 2009 13:57:02 GMT"),
]

# -- http-state, tests/data/parser.json --

HTTP_STATE_NOW = datetime(2011, 4, 1, tzinfo=UTC).timestamp()  # the month of RFC 6265: its dates lie around it
HTTP_STATE_URL = "http://home.example.org:8888/parser"
LONG = "a" * 4_200  # two cases are one such word without end
CHINESE = "春节回家路·春运完全手册".encode().decode("latin-1")
YEAR_OF_RABBIT = "春节回".encode().decode("latin-1")
HOME_ROAD = "家路·春运".encode().decode("latin-1")
COMPLETE_BOOK = "完全手册".encode().decode("latin-1")
SUB, SIBLING, HOME = (f"http://{host}.example.org:8888/result" for host in ("subdomain.home", "sibling", "home"))


@dataclass(frozen=True)
class Case:
    """One test of http-state: the Set-Cookie values of one response, and the Cookie value of the next request."""

    name: str
    received: tuple[str, ...]
    sent: str
    to: str = "/result"

    @property
    def url(self) -> str:
        return self.to if "://" in self.to else "http://home.example.org:8888" + self.to


def _cases(group: str, *rows: tuple[object, ...]) -> Iterator[Case]:
    """Number the rows of one group; a row is (received, sent), (received, sent, to) or None for a gap."""
    for number, row in enumerate(rows, 1):
        if row:
            received, *rest = row
            lines = (received,) if isinstance(received, str) else received
            yield Case(f"{group}{number:04}", lines, *rest)  # type: ignore[arg-type]


GAP: tuple[object, ...] = ()
FOO = "foo=bar"

HTTP_STATE = [
    *_cases(
        "",
        ("foo=bar", FOO),
        ("foo=bar; Expires=Fri, 07 Aug 2019 08:04:19 GMT", FOO),
        (
            (
                "foo=bar; Expires=Fri, 07 Aug 2007 08:04:19 GMT",
                "foo2=bar2; Expires=Fri, 07 Aug 2017 08:04:19 GMT",
            ),
            "foo2=bar2",
        ),
        ("foo", ""),
        ("foo=bar; max-age=10000;", FOO),
        ("foo=bar; max-age=0;", ""),
        ("foo=bar; version=1;", FOO),
        ("foo=bar; version=1000;", FOO),
        ("foo=bar; customvalue=1000;", FOO),
        ("foo=bar; secure;", ""),
        ('foo=bar; customvalue="1000 or more";', FOO),
        ('foo=bar; customvalue="no trailing semicolon"', FOO),
        (("foo=bar", "foo=qux"), "foo=qux"),
        (("foo1=bar", "foo2=qux"), "foo1=bar; foo2=qux"),
        (("a=b", "z=y"), "a=b; z=y"),
        (("z=y", "a=b"), "z=y; a=b"),
        ("z=y, a=b", "z=y, a=b"),
        ("z=y; foo=bar, a=b", "z=y"),
        ("foo=b;max-age=3600, c=d;path=/", "foo=b"),
        (("a=b", "=", "c=d"), "a=b; c=d"),
        (("a=b", "=x", "c=d"), "a=b; c=d"),
        (("a=b", "x=", "c=d"), "a=b; x=; c=d"),
        (("foo", ""), ""),
        (("foo", "="), ""),
        (("foo", "; bar"), ""),
        (("foo", "   "), ""),
        (("foo", "bar"), ""),
        (("foo", "\t"), ""),
    ),
    *_cases(
        "ATTRIBUTE",
        ("foo=bar; Secure", ""),
        ("foo=bar; seCURe", ""),
        ('foo=bar; "Secure"', FOO),
        ("foo=bar; Secure=", ""),
        ("foo=bar; Secure=aaaa", ""),
        ("foo=bar; Secure qux", FOO),
        ("foo=bar; Secure =aaaaa", ""),
        ("foo=bar; Secure= aaaaa", ""),
        ("foo=bar; Secure; qux", ""),
        ("foo=bar; Secure;qux", ""),
        ("foo=bar; Secure    ; qux", ""),
        ("foo=bar;                Secure", ""),
        ("foo=bar;       Secure     ;", ""),
        ("foo=bar; Path", FOO),
        ("foo=bar; Path=", FOO),
        ("foo=bar; Path=/", FOO),
        ("foo=bar; Path=/qux", ""),
        ("foo=bar; Path    =/qux", ""),
        ("foo=bar; Path=    /qux", ""),
        ("foo=bar; Path=/qux      ; taz", ""),
        ("foo=bar; Path=/qux; Path=/", FOO),
        ("foo=bar; Path=/; Path=/qux", ""),
        ("foo=bar; Path=/qux; Path=/result", FOO),
        ("foo=bar; Path=/result; Path=/qux", ""),
        ("foo=bar; qux; Secure", ""),
        ('foo=bar; qux="aaa;bbb"; Secure', ""),
    ),
    *_cases(
        "CHARSET",
        (f"foo={CHINESE}", f"foo={CHINESE}"),
        (f"{YEAR_OF_RABBIT}={HOME_ROAD}{COMPLETE_BOOK}", f"{YEAR_OF_RABBIT}={HOME_ROAD}{COMPLETE_BOOK}"),
        (f"{YEAR_OF_RABBIT}={HOME_ROAD}; {COMPLETE_BOOK}", f"{YEAR_OF_RABBIT}={HOME_ROAD}"),
        (f'foo="{CHINESE}"', f'foo="{CHINESE}"'),
    ),
    *_cases(
        "CHROMIUM",
        ("a=b", "a=b"),
        ('aBc="zzz "   ;', 'aBc="zzz "'),
        ('aBc="zzz " ;', 'aBc="zzz "'),
        ('aBc="zz;pp" ; ;', 'aBc="zz'),
        ('aBc="zz ;', 'aBc="zz'),
        ('aBc="zzz "   "ppp"  ;', 'aBc="zzz "   "ppp"'),
        ('aBc="zzz "   "ppp" ;', 'aBc="zzz "   "ppp"'),
        ('aBc=A"B ;', 'aBc=A"B'),
        ("BLAHHH; path=/;", ""),
        (r'"BLA\"HHH"; path=/;', ""),
        ('a="B', 'a="B'),
        ("=ABC", ""),
        ("ABC=;  path = /", "ABC="),
        ("  A  = BC  ;foo;;;   bar", "A=BC"),
        ("  A=== BC  ;foo;;;   bar", "A=== BC"),
        (
            'foo="zohNumRKgI0oxyhSsV3Z7D"  ; expires=Sun, 18-Apr-2027 21:06:29 GMT ; path=/  ;  ',
            'foo="zohNumRKgI0oxyhSsV3Z7D"',
        ),
        (
            "foo=zohNumRKgI0oxyhSsV3Z7D  ; expires=Sun, 18-Apr-2027 21:06:29 GMT ; path=/  ;  ",
            "foo=zohNumRKgI0oxyhSsV3Z7D",
        ),
        ("    ", ""),
        (LONG, ""),
        GAP,
        ("", ""),
    ),
    *_cases(
        "COMMA",
        ("foo=bar, baz=qux", "foo=bar, baz=qux"),
        ('foo="bar, baz=qux"', 'foo="bar, baz=qux"'),
        ("foo=bar; b,az=qux", FOO),
        ("foo=bar; baz=q,ux", FOO),
        ("foo=bar; Max-Age=50,399", FOO),
        ("foo=bar; Expires=Fri, 07 Aug 2019 08:04:19 GMT", FOO),
        ("foo=bar; Expires=Fri 07 Aug 2019 08:04:19 GMT, baz=qux", FOO),
    ),
    Case("DISABLED_CHROMIUM0020", (LONG,), ""),
    Case("DISABLED_CHROMIUM0022", ("AAA=BB\0ZYX",), "AAA=BB"),
    Case("DISABLED_CHROMIUM0023", ("AAA=BB\rZYX",), "AAA=BB"),
    Case("DISABLED_PATH0029", ("foo=bar; path=/result/foo/bar",), FOO, "/result/f%6Fo/bar"),
    *_cases(
        "DOMAIN",
        ("foo=bar; domain=home.example.org", FOO, HOME),
        ("foo=bar; domain=home.example.org", "", SIBLING),
        ("foo=bar; domain=.home.example.org", FOO, HOME),
        ("foo=bar; domain=home.example.org", FOO, SUB),
        ("foo=bar; domain=.home.example.org", FOO, SUB),
        ("foo=bar; domain=.home.example.org", "", SIBLING),
        ("foo=bar; domain=sibling.example.org", "", SIBLING),
        ("foo=bar; domain=.example.org", FOO, HOME),
        ("foo=bar; domain=example.org", FOO, HOME),
        ("foo=bar; domain=..home.example.org", "", HOME),
        ("foo=bar; domain=home..example.org", "", HOME),
        ("foo=bar; domain=  .home.example.org", FOO, HOME),
        ("foo=bar; domain=  .  home.example.org", "", HOME),
        ("foo=bar; domain=home.example.org.", "", HOME),
        ("foo=bar; domain=home.example.org..", "", HOME),
        ("foo=bar; domain=home.example.org .", "", HOME),
        ("foo=bar; domain=.org", "", HOME),
        ("foo=bar; domain=.org.", "", HOME),
        (("foo=bar; domain=home.example.org", "foo2=bar2; domain=.home.example.org"), "foo=bar; foo2=bar2", HOME),
        (("foo2=bar2; domain=.home.example.org", "foo=bar; domain=home.example.org"), "foo2=bar2; foo=bar", HOME),
        ('foo=bar; domain="home.example.org"', "", HOME),
        (("foo=bar; domain=home.example.org", "foo2=bar2; domain=.example.org"), "foo=bar; foo2=bar2", HOME),
        (("foo2=bar2; domain=.example.org", "foo=bar; domain=home.example.org"), "foo2=bar2; foo=bar", HOME),
        ("foo=bar; domain=.example.org; domain=home.example.org", "", SIBLING),
        ("foo=bar; domain=home.example.org; domain=.example.org", FOO, SIBLING),
        ("foo=bar; domain=home.eXaMpLe.org", FOO, HOME),
        ("foo=bar; domain=home.example.org:8888", "", HOME),
        ("foo=bar; domain=subdomain.home.example.org", "", SUB),
        ("foo=bar", "", SUB),
        GAP,
        ("foo=bar; domain=home.example.org; domain=.example.org", FOO, SIBLING),
        GAP,
        ("foo=bar; domain=home.example.org", FOO, "http://hoMe.eXaMplE.org:8888/result"),
        ("foo=bar; domain=home.example.org; domain=home.example.com", "", HOME),
        ("foo=bar; domain=home.example.com; domain=home.example.org", FOO, HOME),
        ("foo=bar; domain=home.example.org; domain=home.example.com; domain=home.example.org", FOO, HOME),
        ("foo=bar; domain=home.example.com; domain=home.example.org; domain=home.example.com", "", HOME),
        ("foo=bar; domain=home.example.org; domain=home.example.org", FOO, HOME),
        ("foo=bar; domain=home.example.org; domain=example.org", FOO, HOME),
        ("foo=bar; domain=example.org; domain=home.example.org", FOO, HOME),
        ("foo=bar; domain=.sibling.example.org", "", SIBLING),
        ("foo=bar; domain=.sibling.home.example.org", "", "http://sibling.home.example.org:8888/result"),
    ),
    *_cases(
        "MOZILLA",
        ("foo=bar; max-age=-1", ""),
        ("foo=bar; max-age=0", ""),
        ("foo=bar; expires=Thu, 10 Apr 1980 16:33:12 GMT", ""),
        ("foo=bar; max-age=60", FOO),
        ("foo=bar; max-age=-20", ""),
        ("foo=bar; max-age=60", FOO),
        ("foo=bar; expires=Thu, 10 Apr 1980 16:33:12 GMT", ""),
        (("foo=bar; max-age=60", "foo1=bar; max-age=60"), "foo=bar; foo1=bar"),
        (("foo=bar; max-age=60", "foo1=bar; max-age=60", "foo=differentvalue; max-age=0"), "foo1=bar"),
        (
            (
                "foo=bar; max-age=60",
                "foo1=bar; max-age=60",
                "foo=differentvalue; max-age=0",
                "foo2=evendifferentvalue; max-age=0",
            ),
            "foo1=bar",
        ),
        ("test=parser; domain=.parser.test; ;; ;=; ,,, ===,abc,=; abracadabra! max-age=20;=;;", ""),
        ((r'test="fubar! = foo;bar\";" parser; max-age=6', "five; max-age=2.63,"), 'test="fubar! = foo'),
        (("test=kill; max-age=0", "five; max-age=0"), ""),
        ("six", ""),
        (("six", "seven"), ""),
        (("six", "seven", " =eight"), ""),
        (("six", "seven", " =eight", "test=six"), "test=six"),
    ),
    *_cases(
        "NAME",
        *((f"{name}=bar", f"{name}=bar") for name in ("a", "1", "$")),
        *((f"{mark}a=bar", f"{mark}a=bar") for mark in "!@#$%^&*()-_"),
        ("+=bar", "+=bar"),
        ("=a=bar", ""),
        ("a =bar", "a=bar"),
        ('"a=bar', '"a=bar'),
        ('"a=b"=bar', '"a=b"=bar'),
        (('"a=b"=bar', '"a=qux'), '"a=qux'),
        ("   foo=bar", FOO),
        ("foo;bar=baz", ""),
        ("$Version=1; foo=bar", "$Version=1"),
        ("===a=bar", ""),
        ("foo=bar    ", FOO),
        ("foo=bar    ;", FOO),
        ("=a", ""),
        ("=", ""),
        ("foo bar=baz", "foo bar=baz"),
        ('"foo;bar"=baz', ""),
        ((r'"foo\"bar', r'"foo\"bar;baz"=qux'), ""),
        (("=foo=bar", "aaa"), ""),
    ),
    Case("OPTIONAL_DOMAIN0030", ("foo=bar; domain=",), FOO, HOME),
    Case("OPTIONAL_DOMAIN0041", ("foo=bar; domain=example.org; domain=",), FOO, HOME),
    Case("OPTIONAL_DOMAIN0042", ("foo=bar; domain=foo.example.org; domain=",), "", HOME),
    Case("OPTIONAL_DOMAIN0043", ("foo=bar; domain=foo.example.org; domain=",), "", SUB),
    Case(
        "ORDERING0001",
        (
            "key=val0;",
            "key=val1; path=/result",
            "key=val2; path=/",
            "key=val3; path=/bar",
            "key=val4; domain=.example.org",
            "key=val5; domain=.example.org; path=/result/foo",
        ),
        "key=val1; key=val2; key=val4; key=val5",
        "/result/foo/baz",
    ),
    *_cases(
        "PATH",
        (("a=b; path=/", "x=y; path=/result"), "x=y; a=b"),
        (("a=b; path=/result", "x=y; path=/"), "a=b; x=y"),
        (("x=y; path=/", "a=b; path=/result"), "a=b; x=y"),
        (("x=y; path=/result", "a=b; path=/"), "x=y; a=b"),
        ("foo=bar; path=/result/foo", ""),
        (("foo=bar", "foo=qux; path=/result/foo"), FOO),
        ("foo=bar; path=/result/foo", FOO, "/result/foo"),
        ("foo=bar; path=/result/foo", "", "/result/bar"),
        ("foo=bar; path=/result/foo/qux", "", "/result/foo"),
        ("foo=bar; path=/result/foo/qux", FOO, "/result/foo/qux"),
        ("foo=bar; path=/result/foo/qux", "", "/result/bar/qux"),
        ("foo=bar; path=/result/foo/qux", "", "/result/foo/baz"),
        ("foo=bar; path=/result/foo/qux/", "", "/result/foo/baz"),
        ("foo=bar; path=/result/foo/qux/", "", "/result/foo/qux"),
        ("foo=bar; path=/result/foo/qux/", FOO, "/result/foo/qux/"),
        ("foo=bar; path=/result/foo/", FOO, "/result/foo/qux"),
        ("foo=bar; path=/result/foo/", FOO, "/result/foo//qux"),
        ("foo=bar; path=/result/foo/", "", "/result/fooqux"),
        ("foo=bar; path", FOO),
        ("foo=bar; path=", FOO),
        ("foo=bar; path=/", FOO),
        ("foo=bar; path= /", FOO),
        ("foo=bar; Path=/RESULT", ""),
        ("foo=bar; path=/result/foo/qux?", "", "/result/foo/qux"),
        ("foo=bar; path=/result/foo/qux#", "", "/result/foo/qux"),
        ("foo=bar; path=/result/foo/qux;", FOO, "/result/foo/qux"),
        ('foo=bar; path="/result/foo/qux;"', FOO, "/result/foo/qux"),
        ("foo=bar; path=/result/f%6Fo/bar", "", "/result/foo/bar"),
        (("a=b;       path    =       /result   ", "x=y;       path    =       /book   "), "a=b"),
        ("foo=bar; path=/dog; path=", FOO),
        ("foo=bar; path=; path=/dog", ""),
        (("foo=bar; path=/result", "foo=qux; path=/result/"), "foo=qux; foo=bar", "/result/dog"),
    ),
    *_cases(
        "VALUE",
        ("foo=  bar", FOO),
        ('foo="bar"', 'foo="bar"'),
        ('foo="  bar "', 'foo="  bar "'),
        ('foo="bar;baz"', 'foo="bar'),
        ('foo="bar=baz"', 'foo="bar=baz"'),
        ("   foo     =       bar             ;       ttt", FOO),
    ),
]

# What 6265bis decided otherwise since. A pair without "=" is a cookie without a name, and so is "=value": both are
# kept, one of them at a time, and go back as the bare value. Any control character condemns the whole line. A longer
# path goes first. An empty Domain is none at all. Paths are compared as octets, so %6F is not o.
HTTP_STATE_SINCE = {
    "0004": "foo",
    "0021": "a=b; x; c=d",
    "0023": "foo",
    "0024": "foo",
    "0025": "foo",
    "0026": "foo",
    "0027": "bar",
    "0028": "foo",
    "CHROMIUM0009": "BLAHHH",
    "CHROMIUM0010": r'"BLA\"HHH"',
    "CHROMIUM0012": "ABC",
    "DISABLED_CHROMIUM0022": "",
    "DISABLED_CHROMIUM0023": "",
    "DISABLED_PATH0029": "",
    "MOZILLA0012": 'test="fubar! = foo; five',
    "MOZILLA0014": "six",
    "MOZILLA0015": "seven",
    "MOZILLA0016": "eight",
    "MOZILLA0017": "eight; test=six",
    "NAME0017": "a=bar",
    "NAME0023": "foo",
    "NAME0025": "==a=bar",
    "NAME0028": "a",
    "NAME0031": '"foo',
    "NAME0032": r'"foo\"bar',
    "NAME0033": "aaa",
    "OPTIONAL_DOMAIN0042": FOO,
    "ORDERING0001": "key=val5; key=val1; key=val2; key=val4",
}
