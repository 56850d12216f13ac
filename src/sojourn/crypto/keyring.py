"""KeyRing: the newest active key seals, every key that is not revoked opens; and where rings come from."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from sojourn.crypto.key import CURE, SECRET_BYTES, Key, State, format_time, generate_key, parse_key
from sojourn.errors import ConfigurationError

__all__ = ["Key", "KeyInfo", "KeyRing", "Source", "State", "generate_key", "key_ring"]


class KeyInfo(NamedTuple):
    """What a list of keys shows of one: nothing secret. Times are seconds since the epoch."""

    name: str
    state: State
    activate_at: float
    retire_at: float | None


class KeyRing:
    """The keys of an application, in any order; where two become active at one time, the first in the list seals.

    A ring does not change. It has no clock: *now* is an argument, in seconds since the epoch. Raises
    ConfigurationError for a ring that would have no key to seal with, now or when one of them retires.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys: Sequence[Key] = sorted(keys, key=lambda key: -key.activate_at)
        self._by_id = {key.id: key for key in self._keys}
        if len(self._by_id) < len(self._keys):
            raise ConfigurationError("one key is in the ring twice: remove one of the two")
        usable = [key for key in self._keys if not key.revoked]
        if not usable:
            raise ConfigurationError(f"{'every key is revoked' if self._keys else 'there is no key'}; {CURE}")
        for key in usable:
            if key.retire_at is not None and not any(other.may_seal(key.retire_at) for other in usable):
                raise ConfigurationError(
                    f"no key is active when {key.name} retires at {format_time(key.retire_at)}: "
                    "add one that becomes active before"
                )

    @classmethod
    def of(cls, keys: Iterable[str | bytes | Key]) -> KeyRing:
        """Return the ring of *keys*: the texts of keys, or 32 raw bytes each. Nothing that is raised quotes them."""
        return cls(key if isinstance(key, Key) else _parsed(key, f"key {n}") for n, key in enumerate(keys, 1))

    @classmethod
    def from_text(cls, text: str, source: str = "keys") -> KeyRing:
        """Return the ring that *text* holds, one key a line or between commas; *source* names it in errors."""
        keys = [_parsed(entry, f"{source}, line {number}") for number, entry in _entries(text)]
        try:
            return cls(keys)
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error}") from None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> KeyRing:
        """Return the ring in the file at *path*. Refuses one that the group or others may read or write."""
        return cls.from_text(read_private(path), os.fspath(path))

    @classmethod
    def from_environment(cls, name: str) -> KeyRing:
        """Return the ring in the environment variable *name*."""
        text = os.environ.get(name, "")
        if not text.strip():
            raise ConfigurationError(f"the environment variable {name} holds no key; {CURE}")
        return cls.from_text(text, name)

    def writing_key(self, now: float) -> Key:
        """Return the key that seals. Raises ConfigurationError where none is active at *now*."""
        for key in self._keys:
            if key.may_seal(now):
                return key
        first = min(key.activate_at for key in self._keys if not key.revoked)
        raise ConfigurationError(
            f"no key is active at {format_time(now)}, the first will be at {format_time(first)}: "
            "add one that is active already; or set this machine's clock, if it is wrong"
        )

    def reading_key(self, id: bytes) -> Key | None:
        """Return the key of this *id* if it may open; None for one that is unknown or revoked.

        Keys that are not active yet open as well: a node whose clock is ahead seals with them already.
        """
        key = self._by_id.get(id)
        return None if key is None or key.revoked else key

    def knows(self, id: bytes) -> bool:
        """Tell whether the ring has a key of this *id*, revoked or not."""
        return id in self._by_id

    def describe(self, now: float) -> list[KeyInfo]:
        """Return what can be told of each key, newest first."""
        return [KeyInfo(key.name, self._state(key, now), key.activate_at, key.retire_at) for key in self._keys]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal on nodes with equal keys, times and states. They reveal no key."""
        keys = sorted((key.name, key.activate_at, key.retire_at, key.revoked) for key in self._keys)
        return hashlib.sha256(b"sojourn/v1/ring\0" + repr(keys).encode()).hexdigest()[:16]

    def _state(self, key: Key, now: float) -> State:
        if key.revoked:
            return State.REVOKED
        if now < key.activate_at:
            return State.DISTRIBUTED
        sealing = next((other for other in self._keys if other.may_seal(now)), None)
        return State.ACTIVE if key is sealing else State.OPEN_ONLY

    def __repr__(self) -> str:
        return f"<KeyRing {self.fingerprint}: {', '.join(key.name for key in self._keys)}>"


Keys = KeyRing | str | os.PathLike[str] | Iterable[str | bytes | Key]
Source = Keys | Callable[[], Keys]
"""What the setting ``keys=`` takes."""


def key_ring(source: Source) -> KeyRing:
    """Return the ring that *source* names.

    ``"file:/etc/shop/keys"``, a path object, ``"env:SHOP_KEYS"``, a list of keys, a ring, or a function that returns
    one of those, such as a call to a vault; it is asked once. Raises ConfigurationError, also where the package
    ``cryptography`` is missing.
    """
    try:
        import_module("sojourn.crypto.xaes")
    except ImportError as error:
        raise ConfigurationError(
            f"keys= needs {error.name}; install it with: pip install 'sojourn[encryption]'"
        ) from error
    return _ring(source() if callable(source) else source)


def _ring(source: Any) -> KeyRing:
    if isinstance(source, KeyRing):
        return source
    if isinstance(source, os.PathLike):
        return KeyRing.from_file(source)
    if isinstance(source, str):
        scheme, _, rest = source.partition(":")
        if scheme == "file" and rest:
            return KeyRing.from_file(rest)
        if scheme == "env" and rest:
            return KeyRing.from_environment(rest)
    elif isinstance(source, Iterable) and not isinstance(source, bytes):
        return KeyRing.of(source)
    raise ConfigurationError(
        "keys= takes 'file:/path', 'env:NAME', a list of keys, or a function that returns one of those; "
        "a single key goes into a list, too: keys=[key]"
    )


def read_private(path: str | os.PathLike[str]) -> str:
    """Return the text of the file at *path*, which must be nobody's business but this user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # or a FIFO would wait for a writer
        with open(descriptor, encoding="utf-8") as file:
            _check_private(os.fstat(descriptor), path)
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigurationError(f"the keys in {os.fspath(path)} cannot be read: {why}") from None


def _check_private(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    path = os.fspath(path)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is no regular file; keys= takes the path of one")
    if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
        raise ConfigurationError(f"{path} belongs to another user, who may change the keys; make it your own: chown")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"{path} is open to others (mode {mode:04o}); change that with: chmod 600 {path}")


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        for entry in line.partition("#")[0].split(","):
            if entry.strip():
                yield number, entry


def _parsed(entry: Any, where: str) -> Key:
    if not isinstance(entry, (str, bytes)):
        raise ConfigurationError(f"{where}: a key is text or {SECRET_BYTES} bytes, not {type(entry).__name__}")
    try:
        return parse_key(entry)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
