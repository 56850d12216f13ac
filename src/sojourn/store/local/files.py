"""The directory of a LocalStore: made for this user alone, or checked to be."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from sojourn.errors import ConfigurationError

MAX_READERS = 4096  # slots of 64 bytes in the lock file; one is taken for the microseconds of each read
DATA, LOCK = "data.mdb", "lock.mdb"


def memory_backed_path() -> Path:
    """Return where ``local:`` keeps sessions: memory-backed storage where the system has it, one place a user."""
    shm = Path("/dev/shm")  # noqa: S108  (the directory is made with mode 0700 and checked to be ours)
    base = shm if os.access(shm, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return base / f"sojourn-{os.geteuid()}"


def prepare(path: Path) -> None:
    """Make the directory, or check that it is ours alone: whoever can write there can plant sessions.

    Raises ConfigurationError.
    """
    if not path.is_absolute():
        raise ConfigurationError(f"{str(path)!r} is relative, and workers may run anywhere; give an absolute path")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in (path, path / DATA, path / LOCK):
            if os.path.lexists(part):
                _check_ours(part, is_directory=part is path)
    except OSError as error:
        raise ConfigurationError(f"the local store cannot use {path}: {error.strerror}; name another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(f"the local store may not write to {path}; run: chmod u+wx {path}, or name another")


def _check_ours(path: Path, *, is_directory: bool) -> None:
    found = path.lstat()
    forbidden, cure = (stat.S_IWGRP | stat.S_IWOTH, "go-w") if is_directory else (stat.S_IRWXG | stat.S_IRWXO, "go=")
    if not (stat.S_ISDIR if is_directory else stat.S_ISREG)(found.st_mode):
        raise ConfigurationError(f"{path} is a link or of another kind; give the local store a directory of its own")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to user {found.st_uid}, and this is {os.geteuid()}; name another")
    if found.st_mode & forbidden:
        raise ConfigurationError(f"{path} is open to other users; run: chmod {cure} {path}")


def make_lock_file(path: Path) -> None:
    """Make it without holes, as LMDB would: touching one kills the process where memory-backed storage is full."""
    if not (path / LOCK).exists():
        with tempfile.NamedTemporaryFile(prefix="new-lock-", dir=path) as file, suppress(FileExistsError):
            file.write(bytes(MAX_READERS * 64 + 4096))
            file.flush()
            os.link(file.name, path / LOCK)  # unlike a rename, it leaves one alone that another worker put there


def identify(path: Path) -> list[tuple[int, int]]:
    """Return what tells the environment's files from others of the same names."""
    try:
        return [(found.st_dev, found.st_ino) for found in (os.stat(path / name) for name in (DATA, LOCK))]
    except FileNotFoundError:
        return []
