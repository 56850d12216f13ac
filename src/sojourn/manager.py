"""SessionManager: policy, codec, store and transport as one object, checked against each other when built."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from sojourn.codec import Codec, ValueResolver, on_bytes
from sojourn.connect import connect, introduce, is_async, is_store
from sojourn.core import floor, lifecycle, principals
from sojourn.core.capability import CAPABILITIES, Floored, Indexed, Lockable, Scannable, is_able
from sojourn.core.ids import ID_BYTES, SessionId, handle_of
from sojourn.core.opened import Opened, Standing
from sojourn.core.ops import AsyncStore, Flow, Store
from sojourn.core.outcome import KEEP, Action, Event, Happened, Outcome
from sojourn.core.policy import Policy
from sojourn.core.principals import SessionInfo
from sojourn.core.session import Session, check_principal
from sojourn.core.terms import Terms
from sojourn.drive import StorePair, arun, as_async, run
from sojourn.errors import ConfigurationError, SessionNotFetched, StoreUnavailable
from sojourn.exclusive import ExclusiveBlock
from sojourn.transport.cookie import MOST_VALUES, Cookie
from sojourn.transport.response import Headers, tell

if TYPE_CHECKING:
    from sojourn.crypto.at_rest import Vault
    from sojourn.crypto.keyring import Source

T = TypeVar("T")

Read = Callable[[Any], Iterable[str | bytes]]
"""Finds the Cookie header fields in what an adapter has of a request, when asked: who never looks never reads."""

_log = logging.getLogger("sojourn")
_WARNINGS = frozenset(
    {
        Happened.LOST,
        Happened.CONFLICT,
        Happened.UNSAVED,
        Happened.DUPLICATE_TOKEN,
        Happened.OUTAGE,
        Happened.LEASE_LOST,
    }
)
MOST_DRAWS = 256  # of an id that this host keeps; with 2 copies on 50 hosts all miss once in 30,000 times
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class SessionManager:
    """Everything that an adapter needs, and the one place where settings meet.

    *store* is a URL (see :func:`sojourn.connect.connect`) or a store. *types* are the enums, dataclasses and Structs
    that sessions may hold. *namespace* keeps applications that share a store apart. *resolvers* decide, by key, what
    becomes of a value that two parallel requests both changed. *on_event* receives every event, after the log has.
    *outage* says what a visitor meets whose session cannot be fetched: ``"fail"``, 503 at the first look, or
    ``"anonymous"``, an empty session that cannot be changed. *keys* (see :func:`sojourn.crypto.keyring.key_ring`) seal
    what the store keeps. *needs* names the capabilities that the application will use, such as ``Indexed``, so that a
    store which lacks one is refused here. *insecure_dev* is the one switch for plain http: the cookie is named ``sid``
    and lacks Secure.

    Raises ConfigurationError, naming the setting and the cure.
    """

    def __init__(
        self,
        store: Store | AsyncStore | StorePair | str,
        *,
        policy: Policy | None = None,
        cookie: Cookie | None = None,
        codec: Codec | None = None,
        types: Iterable[type] | Mapping[str, type] = (),
        namespace: str = "",
        resolvers: Mapping[str, ValueResolver] | None = None,
        on_event: Callable[[Event], None] | None = None,
        outage: Literal["fail", "anonymous"] = "fail",
        keys: Source | None = None,
        needs: Iterable[type] = (),
        insecure_dev: bool = False,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        _require("store", store, "a store URL or a store", is_store(store))
        _require("policy", policy, "a Policy", policy is None or isinstance(policy, Policy))
        _require("cookie", cookie, "a Cookie", cookie is None or isinstance(cookie, Cookie))
        _require("namespace", namespace, "a str", isinstance(namespace, str))
        for name, function in {"on_event": on_event, "clock": clock, "random": random, **(resolvers or {})}.items():
            _require(name, function, "a function", callable(function) or (name == "on_event" and function is None))
        if codec is not None and types:
            raise ConfigurationError("types and codec are both given; register the types with the codec")
        if cookie is not None and insecure_dev:
            raise ConfigurationError("cookie and insecure_dev are both given; use cookie=Cookie.insecure_dev(...)")
        self.policy = policy or Policy()
        self.codec = codec or Codec(types)
        self.cookie = cookie or (Cookie.insecure_dev() if insecure_dev else Cookie())
        self.namespace = namespace
        self.store = connect(store) if isinstance(store, str) else store
        self._is_pair = isinstance(self.store, StorePair)
        self._store_is_async = not self._is_pair and is_async(cast(Store, self.store))
        self.waits = self._is_pair or self._store_is_async or cast(Store, self.store).waits
        """True where the store may keep a caller waiting, so that an event loop has to await it."""
        if outage not in ("fail", "anonymous"):
            raise ConfigurationError(f"outage is {outage!r}; use 'fail' or 'anonymous'")
        self.outage = outage
        for needed in (*_capabilities(needs), *([Indexed] if self.policy.max_sessions else ())):
            self.require(needed)
        self._resolvers = {key: on_bytes(self.codec, key, resolve) for key, resolve in (resolvers or {}).items()}
        self._on_event = on_event
        self._clock = clock
        self._random = random
        introduce(self.store, self.policy, sealed=keys is not None)
        self._vault = None if keys is None else _vault(keys, namespace, clock, random)
        self._warned_plain_http = False
        self._always_looks_for_losses = insecure_dev

    # -- the store's colour --------------------------------------------------------------------------------

    def blocking_store(self) -> Store:
        """Return the store for a blocking adapter. Raises ConfigurationError for an async one."""
        if self._is_pair:
            return cast(StorePair, self.store).blocking
        if self._store_is_async:
            raise ConfigurationError(
                f"{type(self.store).__name__} is async, and a blocking caller needs a blocking store; "
                "in a handler on an event loop it is: await session.asave()"
            )
        return cast(Store, self.store)

    def loop_store(self) -> AsyncStore:
        """Return the store for an event loop. Raises ConfigurationError for one that would block it."""
        if self._is_pair:
            return cast(StorePair, self.store).loop
        return cast(AsyncStore, self.store) if self._store_is_async else as_async(cast(Store, self.store))

    def has(self, capability: type) -> bool:
        """Tell whether the store has a *capability*, one of the protocols in :mod:`sojourn.core.capability`."""
        return is_able(self._any_half(), capability)

    def require(self, capability: type) -> None:
        """Raise ConfigurationError unless the store has a *capability*."""
        if not self.has(capability):
            name = type(self._any_half()).__name__
            raise ConfigurationError(
                f"{name} is not {capability.__name__}, and that is asked for; choose a store that is (docs/choose.md)"
            )

    def close(self) -> None:
        """Close the store's connections, for an application that ends or a test. Blocking.

        On an event loop it is :meth:`aclose`. Raises ConfigurationError for an async store.
        """
        if callable(close := getattr(self.blocking_store(), "close", None)):
            close()

    async def aprepare(self) -> None:
        """Have the store ready for the first request, where it needs a moment; for a server that starts."""
        if callable(prepare := getattr(self.loop_store(), "prepare", None)):
            await prepare()

    async def aclose(self) -> None:
        """Close the store's connections of the running event loop."""
        if callable(close := getattr(self.loop_store(), "aclose", None)):
            await close()

    def _any_half(self) -> Store | AsyncStore:
        return self.store.made if isinstance(self.store, StorePair) else cast(Store, self.store)

    @cached_property
    def _tag_of(self) -> Callable[[str], bytes] | None:
        return partial(principals.tag_of, namespace=self.namespace) if self.has(Indexed) else None

    @cached_property
    def _floored(self) -> bool:
        return self.has(Floored)

    def run(self, flow: Flow[T]) -> T:
        """Run *flow* on the store, blocking; with *keys*, through the vault."""
        return run(self._sealing(flow) if self._vault else flow, self.blocking_store())

    async def arun(self, flow: Flow[T]) -> T:
        """Run *flow* on the store, on an event loop; with *keys*, through the vault."""
        return await arun(self._sealing(flow) if self._vault else flow, self.loop_store())

    # -- the life of one request ---------------------------------------------------------------------------

    def begin(self, read: Read, source: object, kind: type[Session] = Session) -> Session:
        """Return a session of this *kind*, fetched at the first look.

        Until then not even the cookie is read, by ``read(source)``. *source* must not lead back to the session: the
        cycle would keep every request alive until the garbage collector runs.
        """
        return kind(partial(self._open_now, read, source), self)

    async def abegin(self, read: Read, source: object) -> Session:
        """Return a session fetched beforehand, since a look cannot wait. No cookie, no call to the store.

        Where the store cannot answer, the first look says so: a route that never looks is served.
        """
        return Session(await self._fetched(read, source), self)

    def begin_unfetched(self, read: Read, source: object) -> Session:
        """Return a session that nobody has fetched: for a path that opts out. ``await session.fetch()`` fetches it."""
        return Session(_Unfetched(read, source), self)

    async def fetch(self, session: Session) -> None:
        """Fetch a session from :meth:`begin_unfetched`, and leave others; handlers call ``await session.fetch()``.

        Raises StoreUnavailable.
        """
        if session.looked or not isinstance(opener := session.opener, _Unfetched):
            return
        try:
            opened = (await self._fetched(opener.read, opener.source))()
        except StoreUnavailable as error:
            session.asked, opener.error = True, error
            raise
        session.supply(lambda: opened)
        session.opened  # noqa: B018  a look, since whoever fetches answers by what was found

    def open(self, cookies: Iterable[str | bytes]) -> Flow[Opened]:
        """Return the flow that finds the session which the request's Cookie header fields open."""
        tokens = self.cookie.read(cookies)
        if len(tokens) > MOST_VALUES:
            return _believing_none()
        if not self._floored:
            ids = [id for token in tokens if (id := SessionId.parse(token, self.namespace))] if tokens else ()
            return lifecycle.open(ids, self.policy, self._clock())
        presented = [one for token in tokens if (one := floor.parse(token, self.namespace))]
        return floor.opening(lifecycle.open([one.id for one in presented], self.policy, self._clock()), presented)

    def commit(self, session: Session) -> Outcome:
        """Store what the request changed, blocking, and return what to tell the browser.

        Raises ValueNotStorable and SessionTooLarge (nothing was stored), SessionConflict, StoreUnavailable.
        """
        flow = self._commit(session)
        return KEEP if flow is None else self.report(self.run(flow))

    async def acommit(self, session: Session) -> Outcome:
        """Do what :meth:`commit` does, on an event loop."""
        flow = self._commit(session)
        return KEEP if flow is None else self.report(await self.arun(flow))

    def save(self, session: Session) -> None:
        """Store late changes, blocking; handlers call ``session.save()``."""
        self.report(self.run(lifecycle.save(session, self.terms())))

    async def asave(self, session: Session) -> None:
        """Store late changes, on an event loop; handlers call ``await session.asave()``."""
        self.report(await self.arun(lifecycle.save(session, self.terms())))

    def exclusive(self, session: Session, wait: float, lease: float) -> ExclusiveBlock:
        """Return a block that holds the session's lock; handlers call ``session.exclusive()``."""
        self.require(Lockable)
        return ExclusiveBlock(self, session, wait, lease)

    def finish(self, session: Session, *, thorough: bool) -> None:
        """Report values that were changed after the commit and never saved. Called when the request is over.

        Finding them means encoding every value again, so it is done where there may be some: *thorough* says that the
        response was streamed or failed; or the session was used after it began. With *insecure_dev* it is always done.
        """
        if not (session.looked and (thorough or session.used_late or self._always_looks_for_losses)):
            return
        if keys := session.unsaved():
            self.report(Outcome(events=(Event(Happened.UNSAVED, session.handle, keys),)))

    def respond(self, outcome: Outcome, headers: Headers, *, scheme: str, host: str) -> Headers:
        """Return the response's *headers* with what the outcome asks for: Vary, Set-Cookie, Cache-Control.

        For a session that was looked at; *scheme* and *host* are the request's, for the warning about plain http.
        """
        if outcome.action is Action.ISSUE:
            self._warn_of_plain_http(scheme, host)
        return tell(outcome, headers, self.cookie, self._clock())

    # -- all sessions of one principal -----------------------------------------------------------------------

    def of(self, principal: str) -> list[SessionInfo]:
        """Return the principal's live sessions, the oldest login first. Raises ConfigurationError, StoreUnavailable."""
        return self._infos(self.run(self._live(principal)))

    async def aof(self, principal: str) -> list[SessionInfo]:
        """Do what :meth:`of` does, on an event loop."""
        return self._infos(await self.arun(self._live(principal)))

    def revoke(self, principal: str, *, keep: Session | None = None, only: str | None = None) -> int:
        """End the principal's sessions on every node at once, and return how many there were.

        *keep* spares one session, usually the caller's own; *only* ends just the ones with that handle, as
        SessionInfo shows it. Raises ConfigurationError where the store has no index, StoreUnavailable.
        """
        return self._revoked(self.run(self._revoke(principal, keep, only)))

    async def arevoke(self, principal: str, *, keep: Session | None = None, only: str | None = None) -> int:
        """Do what :meth:`revoke` does, on an event loop."""
        return self._revoked(await self.arun(self._revoke(principal, keep, only)))

    def revoke_all(self, *, keep: Session | None = None) -> int:
        """End every session in the store, whoever's and of whatever namespace, and return how many there were.

        Raises ConfigurationError where the store cannot be scanned, StoreUnavailable.
        """
        return self._revoked(self.run(self._revoke_all(keep)))

    async def arevoke_all(self, *, keep: Session | None = None) -> int:
        """Do what :meth:`revoke_all` does, on an event loop."""
        return self._revoked(await self.arun(self._revoke_all(keep)))

    # -- behind the scenes ---------------------------------------------------------------------------------

    def _commit(self, session: Session) -> Flow[Outcome] | None:
        """Return the flow of a commit; None where it would do nothing and say nothing, as after nearly every request.

        The session is sealed then.
        """
        delta, now = session.delta(), self._clock()
        if lifecycle.is_settled(session, delta, self.policy, now) and not (
            self._floored and not floor.is_settled(session)
        ):
            session.seal()
            return None
        flow = lifecycle.commit(session, delta, self.terms(now))
        return floor.committing(flow, session) if self._floored else flow

    def terms(self, now: float | None = None) -> Terms:
        """Return what a commit at *now* (epoch seconds; None: this moment) goes by."""
        moment = self._clock() if now is None else now
        return Terms(self.policy, moment, self._new_id, self._resolvers, self._tag_of)

    def random(self, size: int) -> bytes:
        """Return *size* random bytes."""
        return self._random(size)

    def report(self, outcome: Outcome) -> Outcome:
        """Log the events of *outcome*, tell the application of them, and return it."""
        for event in outcome.events:
            level = logging.WARNING if event.kind in _WARNINGS else logging.INFO
            _log.log(level, "%s session=%s keys=%r", event.kind, event.session, event.keys)
            if self._on_event:
                self._tell(event)
        return outcome

    def _tell(self, event: Event) -> None:
        """Call the application's listener. It fails alone: what happened is stored, and the browser must hear of it."""
        try:
            assert self._on_event is not None
            self._on_event(event)
        except Exception:
            _log.exception("on_event failed at %s session=%s", event.kind, event.session)

    def _open_now(self, read: Read, source: object) -> Opened:
        try:
            return self.run(self.open(read(source)))
        except StoreUnavailable as error:
            return self._cut_off(error)()

    async def _fetched(self, read: Read, source: object) -> Callable[[], Opened]:
        """Return what the first look will find; where the store cannot answer, what it will be told."""
        try:
            opened = await self.arun(self.open(read(source)))
        except StoreUnavailable as error:
            return self._cut_off(error)
        return lambda: opened

    def _cut_off(self, error: StoreUnavailable) -> Callable[[], Opened]:
        if self.outage == "fail":
            return partial(_raise, error)
        _log.warning("a visitor is served without a session: %s (%r)", error, error.__cause__)
        return lambda: Opened(events=(Event(Happened.OUTAGE),), outage=error)

    def _sealing(self, flow: Flow[T]) -> Flow[T]:
        from sojourn.crypto.at_rest import sealing  # noqa: PLC0415  the driver is an extra

        assert self._vault is not None
        return sealing(flow, self._vault)

    def _live(self, principal: str) -> Flow[list[principals.Live]]:
        self.require(Indexed)
        check_principal(principal)
        tag = principals.tag_of(principal, self.namespace)
        return principals.live_sessions(tag, principal, self.policy, self._clock())

    def _infos(self, live: list[principals.Live]) -> list[SessionInfo]:
        return [SessionInfo(key, record, self.codec) for key, record in live]

    def _revoke(self, principal: str, keep: Session | None, only: str | None) -> Flow[int]:
        self.require(Indexed)
        check_principal(principal)
        tag, terms = principals.tag_of(principal, self.namespace), self.terms()
        kept = yield from lifecycle.keys_of(_key_of(keep), terms)
        if only is None:
            return (yield from principals.revoke(tag, lambda key: key not in kept))
        live = yield from principals.live_sessions(tag, principal, self.policy, terms.now)
        named = [one for one in live if handle_of(one.key) == only and one.key not in kept]
        ended = 0
        for one in named:
            outcome = yield from lifecycle.end(Opened(Standing.OWN, key=one.key, record=one.record), terms)
            ended += outcome.action is Action.EXPIRE
        return ended

    def _revoke_all(self, keep: Session | None) -> Flow[int]:
        self.require(Scannable)
        kept = yield from lifecycle.keys_of(_key_of(keep), self.terms())
        return (yield from principals.revoke_all(kept))

    def _revoked(self, count: int) -> int:
        self.report(Outcome(events=(Event(Happened.REVOKED),)) if count else KEEP)
        return count

    def _new_id(self) -> SessionId:
        """Return a fresh id, by preference one that this host keeps: who stays here is served from here."""
        places: Callable[[bytes], bool] = getattr(self.store, "places", lambda key: True)
        for _ in range(MOST_DRAWS):
            id = SessionId.from_random(self._random(ID_BYTES), self.namespace)
            if places(id.private):
                break
        return id

    def _warn_of_plain_http(self, scheme: str, host: str) -> None:
        if scheme in ("https", "wss") or not self.cookie.secure or self._warned_plain_http:
            return
        if host.rpartition(":")[0] in _LOCAL_HOSTS or host in _LOCAL_HOSTS:
            return
        self._warned_plain_http = True
        _log.warning(
            "a Secure cookie is being set over plain http and browsers will drop it: serve https (behind a proxy, pass "
            "its X-Forwarded-Proto on to the application server), or set insecure_dev=True on a development machine"
        )


def configured(manager: SessionManager | None, settings: Mapping[str, Any]) -> SessionManager:
    """Return the manager that an adapter was given, or one made of *settings*, the arguments of SessionManager."""
    if manager is None:
        if "store" not in settings:
            raise ConfigurationError("no store was given; say where sessions live, for example store='local:'")
        return SessionManager(**settings)
    if settings:
        raise ConfigurationError(f"manager and {', '.join(settings)} are both given; settle it in the manager")
    return manager


def _require(setting: str, value: object, wanted: str, fits: bool) -> None:
    if not fits:
        raise ConfigurationError(f"{setting} takes {wanted}, not {type(value).__name__}")


def _capabilities(needs: Iterable[type]) -> Iterable[type]:
    wanted = tuple(needs) if isinstance(needs, Iterable) else (None,)
    if not set(wanted) <= set(CAPABILITIES):
        names = ", ".join(known.__name__ for known in CAPABILITIES)
        raise ConfigurationError(f"needs takes capabilities ({names}) in a list, not {needs!r}")
    return wanted


def _vault(keys: Source, namespace: str, clock: Callable[[], float], random: Callable[[int], bytes]) -> Vault:
    from sojourn.crypto.at_rest import Vault  # noqa: PLC0415  the driver is an extra
    from sojourn.crypto.keyring import key_ring  # noqa: PLC0415

    return Vault(key_ring(keys), namespace, clock, random)


def _key_of(session: Session | None) -> bytes | None:
    return None if session is None else session.opened.key  # "if session" would ask whether it holds values


def _raise(error: StoreUnavailable) -> Opened:
    raise error


class _Unfetched:
    """The opener of a session on a path that opted out: it knows how to fetch, and refuses to be looked at."""

    def __init__(self, read: Read, source: object) -> None:
        self.read, self.source = read, source
        self.error: StoreUnavailable | None = None
        """Why the last attempt failed; the next one asks again."""

    def __call__(self) -> Opened:
        if self.error:
            raise self.error
        raise SessionNotFetched(
            "this path is excluded from fetching the session beforehand, and a look cannot wait for the store: "
            "await session.fetch() first, or take the path out of exclude="
        )


def _believing_none() -> Flow[Opened]:
    """Return the flow for more tokens than any honest browser sends: it asks the store nothing."""
    opened = yield from lifecycle.open((), Policy(), 0.0)
    return opened._replace(events=(Event(Happened.DUPLICATE_TOKEN),))
