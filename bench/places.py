"""Directories for stores: memory-backed or on a disk, and gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def in_memory() -> Iterator[Path]:
    """Yield an empty directory in memory-backed storage, as ``local:`` uses by default."""
    base = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-", dir=base) as name:
        yield Path(name)


@contextmanager
def on_disk() -> Iterator[Path]:
    """Yield an empty directory where TMPDIR points, or here where that is memory too."""
    base = Path.cwd() if _is_memory(Path(tempfile.gettempdir())) else None
    with tempfile.TemporaryDirectory(prefix="sojourn-bench-", dir=base) as name:
        yield Path(name)


def file_system(path: Path) -> str:
    """Return the type of file system that *path* is on, such as ``ext4``."""
    found, deepest = "unknown", -1
    with open("/proc/mounts") as lines:
        for line in lines:
            _, point, kind, *_ = line.split(" ")
            if path.resolve().is_relative_to(point) and len(point) > deepest:
                found, deepest = kind, len(point)
    return found


def _is_memory(path: Path) -> bool:
    return file_system(path) in ("tmpfs", "ramfs")
