"""Effects: what a node wants done. The engine does it with sockets, the simulation without."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from sojourn.cluster.local import Answer
from sojourn.cluster.wire import Message


class Dial(NamedTuple):
    """Open a stream to the host of this name (``host:port``); say ``dialed`` or ``unreachable``."""

    name: str


class Send(NamedTuple):
    """Put a message into a stream."""

    link: int
    message: Message


class Close(NamedTuple):
    """Close a stream, once what was sent is out. The node has forgotten it: no ``closed`` follows."""

    link: int
    why: str


class Reply(NamedTuple):
    """Answer a worker."""

    worker: int
    answer: Answer


class Report(NamedTuple):
    """Something for the log. *level* is ``info``, ``warning`` or ``error``."""

    level: str
    text: str


class End(NamedTuple):
    """This host has left the cluster: the agent's work is done."""


Effect: TypeAlias = Dial | Send | Close | Reply | Report | End
