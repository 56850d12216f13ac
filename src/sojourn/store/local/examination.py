"""What an operator should know about the place of a LocalStore."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sojourn.core.capability import Finding

LITTLE = 0.10  # of a file system, or of max_size: what is left at least before an operator is told

MOUNTS = Path("/proc/self/mounts")

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs"}
_MEMORY = {"tmpfs", "ramfs"}


def examine(path: Path, *, chosen: bool, sync: bool, used: int, max_size: int) -> list[Finding]:
    """Return what puts sessions at risk in the directory *path*.

    *chosen* says that an operator named it; then sessions are meant to outlive a reboot. *used* and *max_size* are
    bytes.
    """
    return list(_findings(path, file_system_of(path), chosen, sync, used, max_size))


def _findings(path: Path, kind: str | None, chosen: bool, sync: bool, used: int, max_size: int) -> Iterator[Finding]:
    if kind in _NETWORK:
        yield Finding(
            f"{path} is on a file system of a network ({kind}).",
            "LMDB needs memory that all workers share: two hosts, or a cached page, can damage the file.",
            "Name a directory of this host's own disk, or local: for memory.",
        )
    if chosen and kind in _MEMORY:
        yield Finding(
            f"{path} is in memory ({kind}).",
            "A reboot ends every session of this host, though a path was named.",
            "Name a directory on a disk, or write local: where that is meant.",
        )
    if kind not in _MEMORY and not sync:
        yield Finding(
            f"{path} is on a disk, and commits do not wait for it (sync=no).",
            "A power cut or a crash of the system can lose the last commits, logouts among them, or damage the file.",
            "Use sync=yes, unless that was measured to be too slow and such a loss is bearable.",
        )
    yield from _room(path, used, max_size)


def _room(path: Path, used: int, max_size: int) -> Iterator[Finding]:
    found = os.statvfs(path)
    if found.f_blocks and found.f_bavail < LITTLE * found.f_blocks:
        yield Finding(
            f"{100 * found.f_bavail // found.f_blocks} % of the file system of {path} are free.",
            "When it is full no session can begin or grow: visitors get 503.",
            "Make room there, make it larger, or name another directory.",
        )
    if used > (1 - LITTLE) * max_size:
        yield Finding(
            f"{100 * used // max_size} % of max_size={max_size} are used in {path}.",
            "When it is full no session can begin or grow: visitors get 503.",
            "Raise max_size on every worker, or let sessions end sooner.",
        )


def file_system_of(path: Path) -> str | None:
    """Return the kind of file system that *path* lies on, such as "ext4"; None where the system does not say."""
    try:
        with MOUNTS.open(encoding="utf-8", errors="surrogateescape") as file:
            return _kind(path, file)
    except OSError:
        return None


def _kind(path: Path, mounts: Iterable[str]) -> str | None:
    """Return the kind of the mount that *path* lies under: the deepest, and of two on one place the later."""
    kind, depth = None, -1
    for line in mounts:
        _, place, found, *_ = line.split(" ")
        mount = Path(_unescaped(place))
        if (mount == path or mount in path.parents) and len(mount.parts) >= depth:
            kind, depth = found, len(mount.parts)
    return kind


def _unescaped(place: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(escape, character)
    return place
