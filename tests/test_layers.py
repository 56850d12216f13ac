"""The architecture's drawing is true: imports go down only, and the core is pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "sojourn"

# From the top down. A file may import from lower rows, and from its own package; nothing else.
LAYERS: list[set[str]] = [
    {"cli", "lab"},
    {"adapters"},
    {"manager"},
    {"connect", "exclusive"},
    {"store"},
    {"drive", "codec", "crypto", "transport", "balancer", "cluster"},
    {"core"},
    {"errors"},
]
WITHIN_A_LAYER = {("cli", "lab")}  # a command is one call into the library and one way to print it
EVERYTHING = {"testing"}  # may import everything; nothing imports it

CORE_MAY_NOT = {"time", "random", "secrets", "logging", "asyncio", "threading", "socket", "os", "io", "select", "ssl"}
PURE = {"core": {"sojourn", "__future__"}, "cluster": {"sojourn", "__future__", "msgspec"}}  # and what they may import
NEVER = {"pickle", "marshal", "shelve", "jsonpickle", "yaml", "http.cookies"}

FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def level_of(room: str) -> int:
    return next(level for level, rooms in enumerate(LAYERS) if room in rooms)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> Iterator[str]:
    for name in imports_of(path):
        if name.startswith("sojourn."):
            yield name.split(".")[1]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room in EVERYTHING or room == "__init__":
        return
    for other in set(rooms_imported(path)):
        below = level_of(other) > level_of(room) if other not in EVERYTHING else False
        assert other == room or below or (room, other) in WITHIN_A_LAYER, f"{name_of(path)} imports {other}"


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in PURE], ids=name_of)
def test_the_core_and_the_rules_of_replication_know_no_clock_no_randomness_and_no_io(path: Path) -> None:
    for name in imports_of(path):
        top = name.split(".")[0]
        assert top not in CORE_MAY_NOT
        assert top in PURE[room_of(path)] or top in _standard_library(), f"{name_of(path)} imports {name}"
    calls = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if _is_plain_call(node)}
    assert not calls & {"open", "print", "input", "eval", "exec", "__import__"} - _defined_in(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_format_that_can_execute_is_imported(path: Path) -> None:
    for name in imports_of(path):
        assert not any(name == bad or name.startswith(bad + ".") for bad in NEVER)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_says_its_subject_first_and_stays_under_500_lines(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{name_of(path)} does not say what it is about"
    assert docstring.splitlines()[0].endswith((".", ":"))
    assert len(text.splitlines()) <= 500


def test_median_function_is_under_ten_lines() -> None:
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text())) if _is_function(node)]
    lengths = sorted(_body_lines(node) for node in nodes)
    assert lengths[len(lengths) // 2] < 10


def test_the_drawing_names_every_room() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms <= set().union(*LAYERS) | EVERYTHING


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _body_lines(node: ast.AST) -> int:
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _defined_in(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def _standard_library() -> frozenset[str]:
    import sys

    return sys.stdlib_module_names
