"""Why Redis did not answer, in an operator's words: error replies and the driver's errors become StoreUnavailable."""

from __future__ import annotations

from redis import exceptions

from sojourn.errors import StoreUnavailable

ADVICE = {
    "OOM": "has no memory left (maxmemory) and refuses to write; give it more, or find out what fills it",
    "READONLY": "is a replica and takes no writes; name the primary, or use redis+sentinel:// so that it is looked up",
    "LOADING": "is still loading its data; it answers when that is done",
    "BUSY": "is held up by somebody's script; end that with SCRIPT KILL",
    "MISCONF": "cannot save to its disk and therefore refuses to write; look at its log, and at the disk",
    "NOREPLICAS": "has too few replicas (min-replicas-to-write) and refuses to write; bring them back",
    "MASTERDOWN": "is a replica that has lost its primary; name the primary",
    "CLUSTERDOWN": "belongs to a Cluster that has lost a part of its slots; look at CLUSTER INFO there",
    "TRYAGAIN": "is moving these keys to another node; it answers when that is done",
    "CROSSSLOT": "is a node of a Cluster; write the URL as redis+cluster://",
    "MOVED": "is a node of a Cluster, and the key lies on another; write the URL as redis+cluster://",
    "ASK": "is a node of a Cluster, and the key is moving to another; write the URL as redis+cluster://",
    "NOAUTH": "wants a password; write it in the URL as redis://:password@host",
    "WRONGPASS": "refuses the user or the password; compare the URL with its ACL or requirepass",
    "NOPERM": (
        "does not allow its user what was asked: sessions need +@read +@write +@scripting and the keys of the prefix, "
        "an examination +info and +config|get (docs/stores/redis.md)"
    ),
    "WRONGTYPE": "has something else under a session's key; give the sessions a prefix of their own",
}
"""What an error reply that begins with a code says about the server, and what to do."""

# Those that redis-py tells apart by class, having taken the code off the text; from 8.0 on it keeps it, too.
_CODES: list[tuple[type[Exception], str]] = [
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
]


DRIVER_ERRORS = (exceptions.RedisError, exceptions.ChildDeadlockedError, OSError, UnicodeError)
"""What redis-py raises when a server does not answer; the last for a host name that cannot be one."""


class Busy(exceptions.ConnectionError):
    """All connections were in use for as long as a call may take."""


def code_of(error: Exception) -> str:
    """Return the code of an error reply, such as ``OOM``; empty where there was no reply."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if code is None and isinstance(error, exceptions.AuthenticationError):
        code = "NOAUTH" if "required" in str(error) else "WRONGPASS"
    if code is None and isinstance(error, exceptions.ResponseError):
        code = str(error).partition(" ")[0]
    return code or ""


def replied(where: str, code: str, text: str) -> StoreUnavailable:
    """Return what to raise for an error reply of the server at *where*; *text* is its own, with or without the code."""
    return StoreUnavailable(f"{where} {ADVICE.get(code) or f'answered with an error: {text[:200]}'}")


def unavailable(where: str, error: Exception, timeout: float | None = None) -> StoreUnavailable:
    """Return what to raise for the driver's *error*; *where* shows no secret, *timeout* is in seconds."""
    within = "" if timeout is None else f" within {timeout:g} s"
    if code := code_of(error):
        return replied(where, code, str(error))
    if isinstance(error, Busy | exceptions.MaxConnectionsError) or str(error) == "No connection available.":
        return StoreUnavailable(
            f"no connection to {where} became free{within}; it is slow, or more threads than connections use it: pool="
        )
    if isinstance(error, exceptions.TimeoutError):
        return StoreUnavailable(f"{where} did not answer{within} ({error})")
    return StoreUnavailable(f"{where} cannot be reached, or the connection was lost: {error}")
