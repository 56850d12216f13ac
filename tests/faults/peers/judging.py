"""The end of a test with visitors: all copies must be equal, and the checkers of simulated clusters read the history.

The history is written to a file, one JSON object a line, for any other checker: into the directory that the variable
SOJOURN_HISTORIES names, or into a temporary one when something is wrong.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.peers.hosts import Host, Hosts
from tests.faults.peers.visitors import SAFE, Crowd, Failure

from sojourn.cluster.replica import Replica
from sojourn.codec import Codec
from sojourn.testing.sim_checks import check
from sojourn.testing.sim_history import Begins, Copy, Finding, History, State, story, to_lines

MOST_FINDINGS = 5
LACKS = "this host lacks what the browser has seen of the session"


def assert_kept(crowd: Crowd, *, name: str | None = None) -> History:
    """Let everybody rest, wait until all copies are equal, look again everywhere, judge, and fail for anything wrong.

    All hosts must run and reach each other. Returns the history.
    """
    crowd.rest()
    crowd.hosts.meet()
    taken = crowd.hosts.converge()
    crowd.trouble("quiet")
    crowd.trouble("over")
    crowd.look_again()
    crowd.hosts.converge()
    crowd.trouble("quiet")
    history = [*crowd.notes.lines, *final_copies(crowd.hosts)]
    print(f"{told(crowd)}; copies were equal after {taken:.2f} s")
    assert_right(history, name)
    return history


def assert_right(history: History, name: str | None = None) -> None:
    """Judge a history, and write it down."""
    name = name or os.environ.get("PYTEST_CURRENT_TEST", "history").rpartition("::")[2]
    findings = check(history)
    file = _write(history, re.sub(r"[^\w.-]+", "-", name), wrong=bool(findings))
    texts = [f"{one.promise}: {one.text}\n{_story(history, one)}" for one in findings[:MOST_FINDINGS]]
    assert not findings, f"{len(findings)} promises broken, see {file}\n" + "\n\n".join(texts)


def _story(history: History, finding: Finding) -> str:
    return story(history, finding)[-4000:] if finding.about else ""


def final_copies(hosts: Hosts) -> Iterator[Copy]:
    """Yield each host's copy of each session."""
    for host in hosts:
        for key, replica in host.replicas().items():
            digest = blake2b(msgspec.msgpack.encode(replica), digest_size=8).hexdigest()
            yield Copy(host.name, key.hex()[:16], _state(replica), digest, _values(replica), hosts.due(key))


def _state(replica: Replica) -> State:
    return "ended" if replica.deleted else "retired" if replica.retired else "live"


def _values(replica: Replica) -> dict[str, Any]:
    codec = Codec()
    return {key: codec.decode(cell.data) for key, cell in replica.cells.items() if cell.data is not None}


def told(crowd: Crowd) -> str:
    """Return what was answered and what was not, in one line."""
    served = ", ".join(f"{count} {does}" for does, count in sorted(crowd.served().items()))
    return f"{served}; {len(crowd.failures())} failures; the slowest took {crowd.slowest():.3f} s"


def unforced(failures: Sequence[Failure], *hosts: Host) -> list[Failure]:
    """Return the failures that no balancer can be forgiven: all but changes that were under way on one of *hosts*."""
    return [one for one in failures if one.tried not in hosts or one.does in ("read", "probe")]


def forced_by_one_copy(failure: Failure, host: Host) -> bool:
    """Tell whether a change was refused since only *host* has what the browser has seen, and had said so.

    With ``alone=accept`` it answers a write that it could give to nobody in time. Until it can be asked again others
    rather refuse than show an older session. A look goes on to *host* itself: that is not forgiven.
    """
    return failure.alone is host and failure.does not in SAFE and LACKS in failure.why


def _write(history: History, name: str, *, wrong: bool) -> Path | None:
    chosen = os.environ.get("SOJOURN_HISTORIES")
    if not (chosen or wrong):
        return None
    directory = Path(chosen or tempfile.mkdtemp(prefix="sojourn-history-"))
    directory.mkdir(parents=True, exist_ok=True)
    assert isinstance(history[0], Begins)
    file = directory / f"{name}-{history[0].seed}.jsonl"
    file.write_bytes(to_lines(history))
    return file
