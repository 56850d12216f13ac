"""What is said to Redis and what its replies mean; the scripts on a real server; and that no text is ever a command."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from tests.servers.redis import RedisServer

from sojourn.core.capability import Page
from sojourn.core.ops import Written
from sojourn.store import frame
from sojourn.store.redis import commands
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.commands import DELETE, ENLIST, RELEASE, SLACK, TOUCH, UPDATE, Commands, with_source
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

KEY, NAME = a_key(), b"sojourn:" + a_key().hex().encode()
SCRIPTS = [UPDATE, TOUCH, DELETE, ENLIST, RELEASE]

# -- pure ----------------------------------------------------------------------------------------------------------


def test_each_verb_names_one_key() -> None:
    said = Commands()
    assert said.load(KEY) == ("GET", NAME)
    assert said.create(KEY, a_record())[:2] == ("SET", NAME)
    assert said.delete(KEY) == ("UNLINK", NAME)
    for command in (
        said.update(KEY, a_record(), 1),
        said.touch(KEY, START, START + 60, 1),
        said.delete(KEY, 1),
        said.enlist(b"t" * 32, KEY, START, START + 60),
        said.release(KEY, b"me"),
    ):
        assert command[0] == "EVALSHA"
        assert command[2] == 1
        assert command[3].startswith(b"sojourn:")


def test_a_record_is_kept_for_its_own_life_and_a_minute_however_the_clocks_stand() -> None:
    record = a_record(accessed_at=START, expires_at=START + 1800)
    assert Commands().create(KEY, record)[-3:] == ("NX", "PX", 1_800_000 + SLACK)
    assert Commands().update(KEY, record, 1)[-1] == 1_800_000 + SLACK
    assert Commands().touch(KEY, START + 9, START + 10, 1)[-1] == 1000 + SLACK
    late = a_record(accessed_at=START, expires_at=START - 5)
    assert Commands().create(KEY, late)[-1] == SLACK, "never nothing or less, which Redis refuses"
    assert Commands().acquire(KEY, b"me", START, START)[-1] == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.sha[:6])
def test_a_script_is_known_by_its_hash_and_can_be_sent_whole(script: commands.Script) -> None:
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()
    assert with_source(script.on(b"key", b"a", 1)) == ("EVAL", script.source, 1, b"key", b"a", 1)


def test_a_name_stands_for_a_key_and_nothing_else_does() -> None:
    said = Commands("a:")
    assert said.key_of(said.name(KEY)) == KEY
    hexed = KEY.hex().encode()
    for name in (b"", b"a:", hexed, b"a:" + hexed[:-1], b"a:" + hexed + b"0", b"b:" + hexed, b"a:" + b"g" * 64):
        assert said.key_of(name) is None
    assert said.key_of(b"a:\xff" + hexed[1:]) is None
    assert said.key_of(said.acquire(KEY, b"me", START, START + 1)[1]) is None
    assert said.key_of(said.find(b"t" * 32, None, 9)[1]) is None
    assert said.page(b"0", [said.name(KEY), b"a:other"]) == Page((KEY,), None)
    assert said.page(b"17", []) == Page((), b"17")


def test_replies_mean_what_the_contract_says() -> None:
    assert commands.created(b"OK") is Written.DONE
    assert commands.created(None) is Written.EXISTS
    assert [commands.written(reply) for reply in (1, 0, -1)] == [Written.DONE, Written.GONE, Written.STALE]
    assert commands.found(b"0", [KEY, b"1"]) == Page((KEY,), None)
    assert commands.record(KEY, None) is None
    assert commands.records([KEY, a_key(2)], [frame.pack(KEY, a_record()), None]) == [a_record(), None]


# -- the scripts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.fresh()
    return redis_server


def run(server: RedisServer, command: commands.Command) -> Any:
    return server.admin.execute_command(*with_source(command))


def damaged() -> Iterator[bytes]:
    whole = frame.pack(KEY, a_record())
    yield from (whole[:cut] for cut in (1, 2, 9, 10, 26, 41))
    yield b"\x02" + whole[1:]
    yield b"{}"
    yield b"\0" * 41


@pytest.mark.slow
@pytest.mark.parametrize("value", [*damaged()], ids=lambda value: f"{len(value)} bytes")
def test_what_has_no_header_of_ours_is_stale_and_left_as_it_is(server: RedisServer, value: bytes) -> None:
    server.admin.set(NAME, value, px=100_000)
    said = Commands()
    for command in (
        said.update(KEY, a_record(version=2), 1),
        said.touch(KEY, START, START + 60, 1),
        said.delete(KEY, 1),
    ):
        assert commands.written(run(server, command)) is Written.STALE
    assert server.admin.get(NAME) == value
    assert 0 < server.admin.pttl(NAME) <= 100_000
    assert server.admin.execute_command(*said.delete(KEY)) == 1


@pytest.mark.slow
def test_a_frame_without_a_body_is_touched_and_does_not_grow(server: RedisServer) -> None:
    header = frame.pack(KEY, a_record())[:42]
    server.admin.set(NAME, header)
    assert run(server, Commands().touch(KEY, START, START + 60, 1)) == 1
    assert server.admin.get(NAME) == header[:10] + frame.pack_times(START, START + 60) + header[26:]


@pytest.mark.slow
def test_an_empty_value_is_nobody(server: RedisServer) -> None:
    server.admin.set(NAME, b"")
    assert run(server, Commands().update(KEY, a_record(version=2), 1)) == 0
    assert run(server, Commands().touch(KEY, START, START + 60, 1)) == 0
    assert server.admin.get(NAME) == b""


@pytest.mark.slow
def test_touch_writes_no_values_and_sets_the_life_anew(server: RedisServer) -> None:
    stored = frame.pack(KEY, a_record(version=2**40))
    server.admin.set(NAME, stored, px=1000)
    assert run(server, Commands().touch(KEY, START + 7, START + 77, 2**40)) == 1
    assert server.admin.get(NAME) == frame.patch_times(stored, START + 7, START + 77)
    assert 70_000 < server.admin.pttl(NAME) <= 70_000 + SLACK


@pytest.mark.slow
def test_each_write_sets_the_life_anew(server: RedisServer) -> None:
    said, record = Commands(), a_record(accessed_at=START, expires_at=START + 600)
    server.admin.execute_command(*said.create(KEY, record))
    assert 600_000 < server.admin.pttl(NAME) <= 600_000 + SLACK
    run(server, said.update(KEY, record._replace(version=2, expires_at=START + 10), 1))
    assert 10_000 < server.admin.pttl(NAME) <= 10_000 + SLACK


@pytest.mark.slow
def test_an_index_ends_with_its_last_entry_and_buries_the_dead(server: RedisServer) -> None:
    said, tag = Commands(), b"\xff" * 32
    index = said.find(tag, None, 1)[1]
    run(server, said.enlist(tag, a_key(1), START, START + 100))
    run(server, said.enlist(tag, a_key(2), START, START + 50))
    assert 99_000 < server.admin.pttl(index) <= 100_000
    run(server, said.enlist(tag, a_key(3), START + 60, START + 90))
    assert server.admin.zrange(index, 0, -1) == [a_key(3), a_key(1)]
    run(server, said.enlist(tag, a_key(4), START + 200, START + 200))
    assert not server.admin.exists(index)


@pytest.mark.slow
def test_the_scripts_need_no_right_but_that_to_the_key_they_name(server: RedisServer) -> None:
    """A user who may use the keys of one prefix only, as on a server that several applications share."""
    server.admin.execute_command(
        "ACL", "SETUSER", "shop", "on", ">pw", "~sojourn:*", "+@read", "+@write", "+@scripting"
    )
    try:
        with redis.Redis(port=server.port, username="shop", password="pw", socket_timeout=5) as client:
            store = RedisStore(client)
            assert store.create(KEY, a_record()) is Written.DONE
            assert store.update(KEY, a_record(version=2), 1) is Written.DONE
            assert store.touch(KEY, START, START + 60, 2) is Written.DONE
            store.enlist(b"t" * 32, KEY, START, START + 60)
            assert store.scan().keys == (KEY,)
            assert store.acquire(KEY, b"me", START, START + 60)
            assert store.release(KEY, b"me")
            assert store.delete(KEY, 2) is Written.DONE
    finally:
        server.admin.execute_command("ACL", "DELUSER", "shop")


# -- no text is ever a command (withstand 27, 85) --------------------------------------------------------------------

HOSTILE = [
    *(
        "a\r\nFLUSHALL\r\n",
        "*1\r\n$8\r\nFLUSHALL\r\n",
        "\r\n",
        "\n",
        "\0",
        "\x1b[2J",
        " ",
        "  a  ",
        "\t",
        "a b",
        "'",
        '"',
        "`",
    ),
    *(
        "*",
        "?",
        "[",
        "]",
        "[a-z]*",
        "[^a]",
        "\\",
        "\\*",
        "**",
        "so?ourn:*",
        "*:",
        ":",
        "::",
        ";",
        "--",
        "/*",
        "*/",
        "#",
    ),
    *(
        "{",
        "}",
        "{}",
        "{a}",
        "}{",
        "{a",
        "a}",
        "$(id)",
        "${id}",
        "%00",
        "%0d%0aFLUSHALL",
        "%s%n",
        "{0}",
        "{0.__class__}",
    ),
    *("' or 1=1", "'); redis.call('FLUSHALL') --", "]] redis.call('FLUSHALL')", "return redis.call('FLUSHALL')", "nil"),
    *(
        "KEYS[1]",
        "ARGV[1]",
        "../../etc/passwd",
        "..",
        "/",
        "~",
        "|",
        "&",
        "<script>",
        "-1",
        "0",
        "1e9",
        "NaN",
        "inf",
        "-0",
    ),
    *(
        "NX",
        "XX",
        "PX",
        "GET",
        "SET",
        "EVAL",
        "UNLINK",
        "MATCH",
        "COUNT",
        "ACL",
        "CONFIG",
        "SHUTDOWN",
        "DEBUG",
        "of:",
        "lock:",
    ),
    *(
        "ключ",
        "钥匙",
        "é",
        "e\u0301",
        "\u202e",
        "\ufeff",
        "😀",
        "\U0010ffff",
        "\x7f",
        "\x80",
        "ÿ",
        "İ",
        "ß",
        "ﬁ",
        "a" * 128,
    ),
    *(
        "None",
        "null",
        "true",
        "undefined",
        "[]",
        "{}{}",
        "a,b",
        "a=b",
        "a@b",
        "a!b",
        "a+b",
        "(",
        ")",
        "<",
        ">",
        "^",
        "¬",
    ),
]


def test_the_corpus_is_not_a_small_one() -> None:
    assert len(set(HOSTILE)) >= 100


@pytest.mark.slow
def test_no_prefix_owner_principal_or_value_does_more_than_stand_there(server: RedisServer) -> None:
    admin = server.admin
    admin.mset({f"neighbour:{number}": "precious" for number in range(10)})
    before = server.dump()
    for number, text in enumerate(HOSTILE):
        key, record = a_key(number), a_record(principal=text, values={text: text.encode()})
        with server.client() as client, closing(RedisStore(client, prefix=text)) as store:
            owner, tag = text.encode(), hashlib.sha256(text.encode()).digest()
            store.enlist(tag, key, START, START + 60)
            assert store.create(key, record) is Written.DONE
            assert store.load(key) == record
            assert store.update(key, record._replace(version=2), 1) is Written.DONE
            assert store.touch(key, record.accessed_at, record.expires_at, 2) is Written.DONE
            assert store.load(key) == record._replace(version=2)
            assert store.acquire(key, owner, START, START + 60)
            assert not store.release(key, owner + b"x")
            assert store.release(key, owner)
            assert store.find(tag).keys == (key,)
            assert scanned(store) == {key}, "a pattern in a prefix means itself"
            assert set(server.dump()) - set(before) == {
                store._commands.name(key),
                store._commands.find(tag, None, 1)[1],
            }
            store.delist(tag, [key])
            assert store.delete_many([key]) == 1
    assert server.dump() == before


def scanned(store: RedisStore) -> set[bytes]:
    cursor, keys = None, set()
    while True:
        page = store.scan(cursor)
        keys |= set(page.keys)
        cursor = page.cursor
        if cursor is None:
            return keys
