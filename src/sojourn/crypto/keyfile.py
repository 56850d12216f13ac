"""KeyFile: a ring in a file, and the changes that an operator makes to it.

Each change is made under a lock on the directory, tried on a ring first, and put in place as a whole: a reader sees the
old file or the new one. Comments and the order of lines are kept. Distribute a new key to all nodes before it becomes
active, and retire an old one only when a newer one is active.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sojourn.crypto.key import format_time, parse_key
from sojourn.crypto.keyring import KeyRing, read_private
from sojourn.errors import ConfigurationError

Lines = list[str]


class KeyFile:
    """The file at *path*, which need not be there yet. Times are seconds since the epoch.

    Every method raises ConfigurationError for a file that is open to others, and for a change that would leave no key
    active at *now*; then nothing has changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))

    def ring(self) -> KeyRing:
        """Return the ring in the file."""
        return KeyRing.from_file(self.path)

    def add(self, key: str, activate_at: float, now: float) -> None:
        """Add *key*, as ``generate_key`` writes it, to seal from *activate_at* on. Makes the file if need be."""

        def change(lines: Lines) -> Lines:
            return [*lines, f"{key} active={format_time(activate_at)}"]

        self._change(change, now)

    def retire(self, name: str, at: float, now: float) -> None:
        """Let the key *name* seal nothing from *at* on. What it sealed goes on to open."""
        self._change(lambda lines: _set(lines, name, "retired", f"retired={format_time(at)}"), now)

    def revoke(self, name: str, now: float) -> None:
        """Let the key *name* open nothing any more: what it sealed is lost, and who had it is logged out."""
        self._change(lambda lines: _set(lines, name, "revoked", "revoked"), now)

    def remove(self, name: str, now: float) -> None:
        """Take the key *name* out of the file, when the last session that it sealed has expired."""
        self._change(lambda lines: [line for line in lines if _name_of(line) != _known(lines, name)], now)

    def _change(self, change: Callable[[Lines], Lines], now: float) -> None:
        with _locked(self.path.parent):
            lines = read_private(self.path).splitlines() if self.path.exists() else []
            text = "".join(f"{line}\n" for line in change(lines))
            KeyRing.from_text(text, os.fspath(self.path)).writing_key(now)
            _replace(self.path, text)


def _set(lines: Lines, name: str, setting: str, value: str) -> Lines:
    """Return *lines* with one setting of one key changed."""
    name = _known(lines, name)
    return [_with(line, setting, value) if _name_of(line) == name else line for line in lines]


def _with(line: str, setting: str, value: str) -> str:
    words, hash, comment = line.partition("#")
    kept = [word for word in words.split() if word.partition("=")[0] != setting]
    return " ".join([*kept, value]) + (f"  {hash}{comment}" if hash else "")


def _known(lines: Lines, name: str) -> str:
    names = [found for line in lines if (found := _name_of(line))]
    if name not in names:
        raise ConfigurationError(f"there is no key {name!r} in the file; it has {', '.join(names) or 'none'}")
    return name


def _name_of(line: str) -> str | None:
    words = line.partition("#")[0]
    if "," in words:
        raise ConfigurationError("the file has several keys in one line: give each a line of its own, to change it")
    return parse_key(words).name if words.strip() else None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock on *directory*, so that two changes at one time are both made. Leaves no file behind."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"the directory {directory} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    """Put a file with *text* in place of the one at *path*: mode 0600, the old one's owner, on disk before it shows."""
    try:
        descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                _take_owner(descriptor, path)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise
        _sync(path.parent)
    except OSError as error:
        raise ConfigurationError(f"the keys in {path} cannot be changed: {error.strerror}") from error


def _take_owner(descriptor: int, path: Path) -> None:
    """Give the new file the old one's owner, or the application could not read what root has changed."""
    if path.exists():
        old = path.stat()
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, old.st_uid, old.st_gid)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
