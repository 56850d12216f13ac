"""What a session adds to a request under a real uvicorn, measured as the server's own CPU time."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from bench import asgi_apps, browser
from bench.exchange import Answer, Visitor, compare, set_cookie
from bench.rounds import Sample, Stopwatch, check
from bench.table import say, title

CONNECTIONS = 4  # requests under way at once, so that the server does not sleep between any two


class Connection:
    """One kept-alive connection, read without an HTTP library, so that the client stays cheap."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._socket.sendall(request)

    def receive(self) -> bytes:
        """Return one whole response, as it came."""
        got = b""
        while not _complete(got):
            more = self._socket.recv(65536)
            check(more, "the server hung up")
            got += more
        return got

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class ServedClient:
    """Asks one of the server's applications."""

    def __init__(self, connections: list[Connection], prefix: str) -> None:
        self._connections, self._prefix = connections, prefix

    def ask(self, route: str, cookie: bytes, times: int) -> tuple[Sample, list[Answer]]:
        """Send so many requests. The CPU time is the server's, the time on the wall is this client's."""
        request = _request(f"/{self._prefix}/{route}", cookie)
        responses: list[bytes] = []
        before, watch = self._server_cpu(), Stopwatch()
        while len(responses) < times:
            busy = self._connections[: times - len(responses)]
            for connection in busy:
                connection.send(request)
            responses += [connection.receive() for connection in busy]
        wall = watch.per(times).wall
        cpu = (self._server_cpu() - before) / times / 1000
        return Sample(cpu, wall), [_answer(response) for response in responses]

    def _server_cpu(self) -> int:
        self._connections[0].send(_request("/cpu", b"none=1"))
        return int(_answer(self._connections[0].receive()).body)


def _complete(response: bytes) -> bool:
    """Tell whether *response* is whole. The applications send no body without its length."""
    head, end, body = response.partition(b"\r\n\r\n")
    if not end:
        return False
    _, _, length = head.lower().partition(b"content-length: ")
    return len(body) >= int(length.partition(b"\r\n")[0])


def _request(path: str, cookie: bytes) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in browser.FIELDS)
    return f"GET {path} HTTP/1.1\r\n{fields}".encode() + b"cookie: " + browser.cookies(cookie) + b"\r\n\r\n"


def _answer(response: bytes) -> Answer:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(status.split(" ")[1]), body, set_cookie(fields))


@contextmanager
def _server() -> Iterator[int]:
    """Start the server; yield its port; end it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "bench.asgi_server", str(listening.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
        try:
            yield listening.getsockname()[1]
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(20)


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("ASGI under uvicorn", 3)
    say(
        "One uvicorn process with one worker, asyncio's own event loop and h11, no access log; "
        f"{CONNECTIONS} kept-alive connections. The CPU time is the server's own, read before and after each batch."
    )
    with _server() as port, ExitStack() as stack:
        connections = [stack.enter_context(closing(Connection(port))) for _ in range(CONNECTIONS)]
        visitors = {
            name: Visitor(name, ServedClient(connections, str(number)), keeps)
            for number, (name, keeps) in enumerate(asgi_apps.KEEPS.items())
        }
        compare(visitors, 12 if quick else 200, 80, asgi_apps.PEER, asgi_apps.LOCAL)
