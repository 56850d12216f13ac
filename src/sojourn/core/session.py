"""Session: the mapping that handlers hold. It sees every change and is sealed after the commit."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Container,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, time, timedelta
from typing import Any, Protocol

from sojourn.core.delta import Delta
from sojourn.core.ids import handle_of
from sojourn.core.opened import Opened, Rotation, Standing
from sojourn.core.outcome import Outcome
from sojourn.errors import SessionSealed, SojournError, ValueNotStorable

MAX_PRINCIPAL = 255  # characters; fits a short text column in every SQL dialect

MAX_COOKIE_AGE = 34_560_000  # seconds, 400 days; browsers cut longer ones down to it (RFC 6265bis, 5.5)

# A value of one of these types cannot have changed since it was read, so it is not encoded again at commit.
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, datetime, time, timedelta})


_MISSING: Any = object()


class ValueCodec(Protocol):
    """What a session needs of a codec."""

    def encode(self, value: object, key: str | None = None) -> bytes:
        """Return *value* as bytes; raise ValueNotStorable naming the session *key* under which it stands."""

    def decode(self, data: bytes, key: str | None = None) -> object:
        """Return what :meth:`encode` was given; raise ValueUnreadable naming the session *key*."""


class Keeper(Protocol):
    """What a session asks of whoever made it: the codec, and a way to store late changes in either colour."""

    @property
    def codec(self) -> ValueCodec:
        """The codec of the session's values."""

    def save(self, session: Session) -> None:
        """Store the session's late changes, blocking."""

    async def asave(self, session: Session) -> None:
        """Store the session's late changes on an event loop."""

    async def fetch(self, session: Session) -> None:
        """Fetch the session, where no look could wait for it."""

    def exclusive(self, session: Session, wait: float, lease: float) -> Exclusive:
        """Return what holds the session's lock inside a ``with`` or an ``async with``."""


class Exclusive(AbstractContextManager[None], AbstractAsyncContextManager[None], Protocol):
    """A block that has the session to itself, in either colour."""


class Session(MutableMapping[str, Any]):
    """One visitor's values, fetched at the first look and written at the commit.

    A plain mapping: keys are str, values whatever the codec stores. Changes inside a value (``session["cart"].append``)
    are seen, since each value that was touched is encoded again at the commit and compared with its old bytes.
    """

    # Class attributes are the state of a session that nobody has looked at: most requests never look,
    # and for them building one costs two assignments.
    asked = False
    """True once the handler has tried to look at the session; the response then varies by cookie."""
    looked = False
    """True once a look has succeeded: what is stored is known."""
    used_late = False
    """True once a value was handed out after the commit: a change inside it would be lost unless somebody saves."""
    _sealed = False
    _late = False
    _opened = Opened()
    _ending: Opened | None = None
    _rotation: Rotation | None = None
    _carried: frozenset[str] | None = None
    _principal: str | None = None
    _cookie_age: int | None = None
    remembers = False
    """True once this request has said how long the browser keeps the cookie; otherwise the record says it."""
    _merged_from: tuple[Mapping[str, bytes], Delta] | None = None
    owed: Outcome | None = None
    """What an exclusive block stored early and the browser must still be told by the commit."""
    _stored: Mapping[str, bytes] = {}
    _live: dict[str, Any]
    _suspects: dict[str, None]
    _removed: set[str]

    def __init__(self, opener: Callable[[], Opened], keeper: Keeper) -> None:
        self._opener = opener
        self._keeper = keeper

    # -- the mapping -------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        if self._sealed or not self.looked:
            self._look()
        value = self._live.get(key, _MISSING)
        if value is not _MISSING:
            return value
        data = self._stored.get(key)
        if data is None or key in self._removed:
            raise KeyError(key)
        value = self._live[key] = self._keeper.codec.decode(data, key)
        if type(value) not in _IMMUTABLE:
            self._suspects[key] = None
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._open_for_change()
        if type(key) is not str:
            raise ValueNotStorable(f"[{key!r}]", "the keys of a session are str")
        self._live[key] = value
        self._suspects[key] = None
        self._removed.discard(key)

    def __delitem__(self, key: str) -> None:
        self._open_for_change()
        if key not in self:
            raise KeyError(key)
        self._live.pop(key, None)
        self._suspects.pop(key, None)
        if key in self._stored:
            self._removed.add(key)

    def __contains__(self, key: object) -> bool:
        if not self.looked:
            self._look()
        return key in self._live or (key in self._stored and key not in self._removed)

    def __iter__(self) -> Iterator[str]:
        self._look()
        yield from [key for key in self._stored if key not in self._removed]
        yield from [key for key in self._live if key not in self._stored]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> KeysView[str]:
        """Return a view of the keys. Asking for it is a look already, before anything is done with it."""
        self._look()
        return super().keys()

    def values(self) -> ValuesView[Any]:
        """Return a view of the values."""
        self._look()
        return super().values()

    def items(self) -> ItemsView[str, Any]:
        """Return a view of keys and values."""
        self._look()
        return super().items()

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove *key* and return its value; where it is missing, return *default*, or raise KeyError without one."""
        self._look()
        self._refuse_in_outage()  # else a default would say "done" while the store cannot answer
        return super().pop(key) if default is _MISSING else super().pop(key, default)

    def clear(self) -> None:
        """Remove every key."""
        self._keep_only(())

    # -- the life of the session -------------------------------------------------------------------------

    @property
    def principal(self) -> str | None:
        """Who is logged in, as given to :meth:`login`."""
        self._look()
        return self._principal

    @property
    def is_new(self) -> bool:
        """True while nothing is stored: a first visit, an unknown or expired id, or after :meth:`destroy`."""
        self._look()
        return self._opened.record is None

    @property
    def available(self) -> bool:
        """False where the store cannot answer and policy serves the visitor all the same: as an anonymous one.

        Reading then finds nothing, and every attempt to change something raises StoreUnavailable.
        """
        self._look()
        return self._opened.outage is None

    @property
    def created_at(self) -> float | None:
        """When the session began, in seconds since the epoch; None while it is new."""
        return None if self.is_new else self._opened.current()[1].created_at

    @property
    def expires_at(self) -> float | None:
        """The deadline as it was stored, in seconds since the epoch; None while it is new."""
        return None if self.is_new else self._opened.current()[1].expires_at

    @property
    def handle(self) -> str | None:
        """A short name for logs and pages. It opens nothing. None while the session is new.

        A new id gets its name at the commit: the request that creates or rotates still shows the old state.
        """
        self._look()
        return handle_of(self._opened.key) if self._opened.key else None

    def rotate(self) -> None:
        """Change the id and keep everything else, as after a change of network or at regular intervals.

        Requests in flight with the old id are served for the policy's grace period. For a change of privilege
        use :meth:`login`, which leaves the old id nothing.
        """
        self._open_for_rotation()
        self._rotation = self._rotation or Rotation.RENEWAL

    def login(self, principal: str, *, keep: Iterable[str] | None = None) -> None:
        """Record that *principal* (1 to 255 characters) is logged in, under a new id and from a new beginning.

        An anonymous visitor's values are kept, all or only those that *keep* names. When somebody else was logged
        in, only those that *keep* names are. The old id opens nothing afterwards: whoever planted it gains nothing.
        """
        check_principal(principal)
        self._open_for_rotation()
        if keep is not None or self._principal not in (None, principal):
            self._carried = frozenset(keep or ())
            self._keep_only(self._carried)
        self._principal = principal
        self._rotation = Rotation.LOGIN

    def logout(self, *, keep: Iterable[str] = ()) -> None:
        """End the session as :meth:`destroy` does. The values that *keep* names begin an anonymous one."""
        kept = {key: self[key] for key in keep if key in self}
        self.destroy()
        if kept:
            self.update(kept)

    def destroy(self) -> None:
        """End the session: its record is deleted, its id refused for good, the browser's cookie taken back.

        What is set afterwards in the same request begins another session under another id.
        """
        self._open_for_change()
        self.owed = None
        if self._opened.record is not None:
            self._ending = self._opened
        if self._opened.standing is not Standing.RETIRED:
            self._start_over(Opened(events=self._opened.events))
        else:
            self._start_over(self._opened)

    def remember(self, age: float | timedelta) -> None:
        """Say how long the browser keeps the cookie: *age* in seconds, or a timedelta.

        As in Java's ``Cookie.setMaxAge``: negative, until the browser closes; zero, delete it now, and the
        session with it; positive, that long. The server's own timeouts hold all the same.
        """
        number = age.total_seconds() if isinstance(age, timedelta) else age
        if not abs(number) <= MAX_COOKIE_AGE:
            raise ValueNotStorable(".cookie_age", "browsers keep a cookie for 400 days at most")
        if number == 0:
            self.destroy()
        else:
            self._open_for_change()
            self._cookie_age = max(1, round(number)) if number > 0 else None
            self.remembers = True

    async def fetch(self) -> None:
        """Fetch the session on an event loop, where its path was excluded from being fetched beforehand.

        Otherwise this does nothing. Raises StoreUnavailable.
        """
        if self._sealed:
            self._look()  # raises where it would be the first, before the store is asked in vain
        if not self.looked:
            await self._keeper.fetch(self)

    def exclusive(self, wait: float = 2.0, lease: float = 30.0) -> Exclusive:
        """Return a context manager that lets one request at a time work on this session: ``with``, or ``async with``.

        It waits *wait* seconds at most, then raises SessionBusy. Entering fetches what others have stored meanwhile;
        leaving stores the changes. Two may be inside together when one holds it for longer than *lease* seconds, or has
        the id from before a renewal; nothing is lost then, since commits compare versions. A session that is not stored
        yet is nobody else's and needs no lock. Raises ConfigurationError where the store has no locks.
        """
        self._open_for_change()
        return self._keeper.exclusive(self, wait, lease)

    # -- after the response has begun --------------------------------------------------------------------

    def reopen(self) -> None:
        """Allow changes after the response has begun: in a stream, a websocket, a background task.

        They are stored by :meth:`save` and by nothing else. No cookie can be sent any more, so a session that is
        not stored yet cannot begin, and the id cannot change.
        """
        self._sealed, self._late, self.used_late = False, True, True
        self.forget_others_values()

    def save(self) -> None:
        """Store the changes made since :meth:`reopen`. Raises StoreUnavailable, SessionSealed, SessionConflict."""
        self._require_late()
        self._keeper.save(self)

    async def asave(self) -> None:
        """Do what :meth:`save` does, for a store that is awaited."""
        self._require_late()
        await self._keeper.asave(self)

    # -- for the lifecycle -------------------------------------------------------------------------------

    @property
    def opened(self) -> Opened:
        """What the session was opened on, or rebased to by a commit."""
        self._look()
        return self._opened

    @property
    def ending(self) -> Opened | None:
        """The session that :meth:`destroy` ended in this request."""
        return self._ending

    @property
    def rotation(self) -> Rotation | None:
        """Why the id is to change; None when it stays."""
        return self._rotation

    @property
    def carried(self) -> frozenset[str] | None:
        """The stored keys that a login took along; None: all of them."""
        return self._carried

    @property
    def cookie_age(self) -> int | None:
        """Seconds that the browser should keep the cookie; None: until it closes."""
        return self._cookie_age

    @property
    def late(self) -> bool:
        """True after :meth:`reopen`."""
        return self._late

    def delta(self) -> Delta:
        """Return what this request changed, by encoding again every value it may have changed.

        Raises ValueNotStorable or SessionTooLarge, naming the value.
        """
        if not self.looked or not (self._suspects or self._removed):
            return _NOTHING
        encode, stored, changed = self._keeper.codec.encode, self._stored, {}
        for key in self._suspects:
            data = encode(self._live[key], key)
            if stored.get(key) != data:
                changed[key] = data
        return Delta(changed, frozenset(self._removed)) if changed or self._removed else _NOTHING

    def unsaved(self) -> tuple[str, ...]:
        """Return the keys whose changes no commit and no ``save`` has stored; names only, and never raises."""
        if not self.looked or not (self._suspects or self._removed):
            return ()
        self.forget_others_values()
        try:
            delta = self.delta()
        except SojournError:
            return tuple(self._suspects)
        return (*delta.set, *delta.removed)

    def seal(self) -> None:
        """Refuse changes from now on: the cookie and the data are about to go out."""
        self._sealed = True

    def ended(self) -> None:
        """Note that the session which :meth:`destroy` ended is gone from the store."""
        self._ending = None

    def rebase(self, opened: Opened, delta: Delta) -> None:
        """Take what a commit stored, this request's *delta* and what others wrote, as the new base to compare with."""
        self._merged_from = self._stored, delta
        self._opened, self._stored = opened, opened.record.values if opened.record else {}
        self._removed = set()
        self._rotation = self._carried = None
        self._cookie_age, self.remembers = opened.record.cookie_age if opened.record else self._cookie_age, False

    def supply(self, opener: Callable[[], Opened]) -> None:
        """Let the first look take what *opener* returns."""
        self._opener = opener

    @property
    def opener(self) -> Callable[[], Opened]:
        """What the first look will call; there is none after it."""
        return self._opener

    def forget_others_values(self) -> None:
        """Forget our copies of values that others wrote or that were merged: they would look like changes of ours."""
        if self._merged_from is None:
            return
        (before, delta), self._merged_from = self._merged_from, None
        for key in list(self._live):
            if self._stored.get(key) != delta.set.get(key, before.get(key)):
                self._live.pop(key)
                self._suspects.pop(key, None)

    def __repr__(self) -> str:
        if not self.looked:
            return "<Session: not looked at>"
        who = self._opened.standing.name.lower() if self.is_new else self.handle
        return f"<Session {who}: {len(self)} keys>"

    def _look(self) -> None:
        if self.looked:
            self.used_late = self.used_late or self._sealed
            return
        if self._sealed:
            raise SessionSealed(
                "this is the first look at the session and the response has begun without Vary: Cookie, so a cache "
                "could show it to others; look earlier, or call session.reopen() first"
            )
        self.asked = True  # before the store may fail: who catches that answers by cookie all the same
        self._start_over(self._opener())
        self.looked = True
        del self._opener  # it holds the request's headers

    def _start_over(self, opened: Opened) -> None:
        record = opened.record
        self._opened = opened
        self._stored = record.values if record else {}
        self._principal = record.principal if record else None
        self._cookie_age = record.cookie_age if record else None
        self._live, self._suspects, self._removed = {}, {}, set()
        self._rotation = self._carried = None
        self.remembers = False

    def _keep_only(self, kept: Container[str]) -> None:
        self._open_for_change()
        for key in [key for key in self if key not in kept]:
            del self[key]

    def _open_for_change(self) -> None:
        if self._sealed:
            raise SessionSealed(
                "the response has begun, so this change could no longer be announced; make it earlier, "
                "or call session.reopen() first and session.save() after it"
            )
        self._look()
        self._refuse_in_outage()

    def _refuse_in_outage(self) -> None:
        if self._opened.outage:
            raise self._opened.outage

    def _require_late(self) -> None:
        if not self._late:
            raise SessionSealed("save() is for after reopen(); before the response begins the commit stores everything")

    def _open_for_rotation(self) -> None:
        if self._late:
            raise SessionSealed("the response has begun, so the browser cannot be told a new id")
        self._open_for_change()


def check_principal(principal: object) -> None:
    """Raise ValueNotStorable for what cannot be a principal."""
    if not (type(principal) is str and 0 < len(principal) <= MAX_PRINCIPAL):
        raise ValueNotStorable(".principal", f"it must be a str of 1 to {MAX_PRINCIPAL} characters")
    if any("\ud800" <= character <= "\udfff" for character in principal):
        raise ValueNotStorable(".principal", "it has half a character (a lone surrogate), which UTF-8 cannot spell")


_NOTHING = Delta()
