"""What a session costs below HTTP: open, use, commit, on each store in both colours, beside the raw drivers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

from bench import browser, visitor
from bench.drivers import DictDriver, Driver, lmdb_driver
from bench.places import file_system, in_memory, on_disk
from bench.rounds import Batch, Rounds, Sample, Stopwatch, check, fitting, interleave, repeated
from bench.table import say, table, title
from sojourn import Session, SessionManager
from sojourn.core.ops import Store
from sojourn.core.record import Record
from sojourn.store import frame

Sources = tuple[bytes, ...]


class Visit:
    """One visitor of one manager: whole requests, without HTTP. Each answers with the length of what was shown."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager, self._store = manager, cast(Store, manager.store)
        session = self._begin(())
        session.update(visitor.data())
        id = manager.commit(session).id
        assert id is not None
        self._id, self._written = id, 0
        self._sources: Sources = (browser.cookies(f"{manager.cookie.name}={id.public}".encode()),)
        self._shown = len(visitor.shown(visitor.FIRST_COUNT))
        self._changed = len(f"{visitor.FIRST_COUNT} of the first")

    def contenders(self, name: str, runner: asyncio.Runner) -> dict[str, Batch]:
        """Return reading and writing in both colours, as batches."""
        return {
            f"{name} read": repeated(self.read, self._shown, fitting(self.read)),
            f"{name} read async": _repeated_async(self.aread, self._shown, fitting(self.read), runner),
            f"{name} write": repeated(self.write, self._changed, fitting(self.write)),
            f"{name} write async": _repeated_async(self.awrite, self._changed, fitting(self.write), runner),
        }

    def read(self) -> int:
        """Open, read all keys, commit; blocking."""
        session = self._begin(self._sources)
        shown = visitor.show(session)
        self._manager.commit(session)
        return len(shown)

    async def aread(self) -> int:
        """Open, read all keys, commit; on an event loop."""
        session = await self._manager.abegin(_as_they_are, self._sources)
        shown = visitor.show(session)
        await self._manager.acommit(session)
        return len(shown)

    def write(self) -> int:
        """Open, change the cart, commit; blocking."""
        session = self._begin(self._sources)
        shown = visitor.change(session)
        self._manager.commit(session)
        self._written += 1
        return len(shown)

    async def awrite(self) -> int:
        """Open, change the cart, commit; on an event loop."""
        session = await self._manager.abegin(_as_they_are, self._sources)
        shown = visitor.change(session)
        await self._manager.acommit(session)
        self._written += 1
        return len(shown)

    def key_and_bytes(self) -> tuple[bytes, bytes]:
        """Return what the store keeps, for the raw driver."""
        return self._id.private, frame.pack(self._id.private, self._record())

    def check(self) -> None:
        """Check that each write is in the store, and that no read wrote."""
        version = self._record().version
        check(version == self._written + 1, f"{self._written} writes made version {version}")
        wanted = visitor.shown(visitor.FIRST_COUNT + self._written)
        check(visitor.show(self._begin(self._sources)) == wanted, "the last write is not what is read")

    def _begin(self, sources: Sources) -> Session:
        return self._manager.begin(_as_they_are, sources)

    def _record(self) -> Record:
        record = self._store.load(self._id.private)
        check(record, "the session is gone")
        return cast(Record, record)


def _as_they_are(source: object) -> Sources:
    return cast(Sources, source)


def _repeated_async(operation: Callable[[], Awaitable[int]], answer: int, times: int, runner: asyncio.Runner) -> Batch:
    async def run() -> Sample:
        total, each = 0, range(times)
        watch = Stopwatch()
        for _ in each:
            total += await operation()
        sample = watch.per(times)
        check(total == answer * times, f"{times} operations answered {total}, not {answer} each")
        return sample

    return lambda: runner.run(run())


def _raw(name: str, driver: Driver, size: int) -> dict[str, Batch]:
    return {
        f"{name} get": repeated(driver.get, size, fitting(driver.get)),
        f"{name} put": repeated(driver.put, size, fitting(driver.put)),
    }


@contextmanager
def _contenders(memory: Path, disk: Path) -> Iterator[dict[str, Batch]]:
    """Yield all batches; afterwards check what is in the stores."""
    stores = {
        "memory:": "memory:",
        "local: in memory": f"local:{memory}/store?sync=no",
        "local: on disk, sync=no": f"local:{disk}/store?sync=no",
        "local: on disk, sync=yes": f"local:{disk}/synced?sync=yes",
    }
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        batches: dict[str, Batch] = {}
        for name, url in stores.items():
            visit = Visit(SessionManager(url))
            batches |= visit.contenders(name, runner)
            key, data = visit.key_and_bytes()
            if name == "memory:":
                driver: Driver = DictDriver(key, data)
            else:
                place, sync = (memory if "memory" in name else disk), name.endswith("yes")
                driver = stack.enter_context(lmdb_driver(place / f"raw-{sync}", sync, key, data))
            batches |= _raw(name, driver, len(data))
            stack.callback(visit.check)
        yield batches


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("Operations")
    with in_memory() as memory, on_disk() as disk:
        say(
            f"One visitor with {visitor.SIZE} bytes of user data. A read opens the session by its cookie, reads all "
            "five keys and commits; a write reads and changes the cart and commits. The raw driver gets and puts the "
            "same bytes, in a transaction of its own where it has such. Every row includes the call of one function. "
            f"The disk is {file_system(disk)}. All rows take turns in each round; median and quartiles of all rounds."
        )
        with _contenders(memory, disk) as batches:
            measured = interleave(batches, 10 if quick else 60)
        names = [name.removesuffix(" get") for name in batches if name.endswith(" get")]
        for verb, raw in (("read", "get"), ("write", "put")):
            title(f"Open, {verb}, commit", 3)
            heads = ("store", "raw driver, CPU µs", "blocking, CPU µs", "async, CPU µs", "blocking, µs on the wall")
            table(heads, [_row(name, verb, raw, measured) for name in names])


def _row(name: str, verb: str, raw: str, measured: Rounds) -> tuple[object, ...]:
    blocking, colour = f"{name} {verb}", f"{name} {verb} async"
    return name, measured.cpu(f"{name} {raw}"), measured.cpu(blocking), measured.cpu(colour), measured.wall(blocking)


if __name__ == "__main__":
    report("--quick" in sys.argv)
