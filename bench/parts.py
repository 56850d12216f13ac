"""The codec and the cookie parser alone, beside what others use for the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from http.cookies import SimpleCookie

import msgspec
from starlette.requests import cookie_parser

from bench import browser, visitor
from bench.rounds import check, fitting, interleave, repeated
from bench.table import say, table, title
from sojourn import Codec, Cookie

Parts = dict[str, Callable[[], int]]

TOKEN = "qk3V0sX9bT1uYzM7cR5nLw2HdF8aGj4eKp6iOvNxBtA"


def _codec_parts() -> Parts:
    """Return encoding and decoding; each answers with the number of keys."""
    values, codec = visitor.data(), Codec()
    paths = {key: f"[{key!r}]" for key in values}
    encoded = {key: codec.encode(value, paths[key]) for key, value in values.items()}
    pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
    packed, text = pack(values), json.dumps(values)

    def decode() -> dict[str, object]:
        return {key: codec.decode(data, paths[key]) for key, data in encoded.items()}

    check(decode() == values, "the codec does not give back what it was given")
    check(unpack(packed) == values, "msgspec does not give back what it was given")
    size = len(text)
    return {
        "codec: encode five values, one by one": lambda: len([codec.encode(values[key], paths[key]) for key in values]),
        "msgspec: encode all at once": lambda: len(pack(values)) and 5,
        "json: encode all at once": lambda: len(json.dumps(values)) - size + 5,
        "codec: decode five values, one by one": lambda: len(decode()),
        "msgspec: decode all at once": lambda: len(unpack(packed)),
        "json: decode all at once": lambda: len(json.loads(text)),
    }


def _cookie_parts() -> Parts:
    """Return the parsers, on a header of three cookies; each answers with the length of the token that it found."""
    cookie = Cookie()
    header = browser.cookies(f"{cookie.name}={TOKEN}".encode())
    text = header.decode()
    return {
        "our cookie parser": lambda: len(cookie.read([header])[0]),
        "Starlette's cookie parser": lambda: len(cookie_parser(text)[cookie.name]),
        "http.cookies": lambda: len(SimpleCookie(text)[cookie.name].value),
    }


def report(quick: bool = False) -> None:
    """Print the table."""
    title("Parts")
    say(
        f"The visitor's {visitor.SIZE} bytes of data, and a Cookie field of three cookies. The codec keeps each value "
        "apart, checks types, bounds and spelling, and gives back tuples, sets and dates too; the others do not."
    )
    batches = {name: repeated(part, 5, fitting(part, 3)) for name, part in _codec_parts().items()}
    batches |= {name: repeated(part, len(TOKEN), fitting(part, 3)) for name, part in _cookie_parts().items()}
    measured = interleave(batches, 20 if quick else 200)
    table(("part", "CPU µs"), [(name, measured.cpu(name)) for name in batches])


if __name__ == "__main__":
    report("--quick" in sys.argv)
