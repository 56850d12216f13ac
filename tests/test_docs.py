"""What the documentation says is true: its code runs, its links lead somewhere, and the tests that it names exist."""

from __future__ import annotations

import argparse
import ast
import asyncio
import dataclasses
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
import types
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from _pytest.mark import ParameterSet

import sojourn.testing
from sojourn import HOUR, MINUTE, Codec, Cookie, Happened, Policy, SessionManager, manager
from sojourn.adapters import flask as flask_adapter
from sojourn.cli import parser

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*DOCS, ROOT / "CHANGELOG.md", ROOT / "bench" / "README.md"]
TRANSLATED = [page for page in DOCS if page.with_suffix("").suffix == ".zh-CN"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def english_of(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-CN", ""))


# -- reading a page --------------------------------------------------------------------------------------------

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"(?<!\!)\[([^\[\]]*)\]\(([^()\s]+)\)")
FILE_NAME = re.compile(r"# (\S+\.py)\n")


class Block(NamedTuple):
    """A fenced block: its language, its code, and the line at which that begins."""

    language: str
    code: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is, or quotes: named by a comment in its first line."""
        found = FILE_NAME.match(self.code)
        return found[1] if found else None


@cache
def text_of(page: Path) -> str:
    return page.read_text()


def blocks_of(page: Path) -> list[Block]:
    text = text_of(page)
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2))) for found in FENCE.finditer(text)]


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def headings_of(page: Path) -> list[str]:
    return [found[2] for found in HEADING.finditer(prose_of(page))]


def anchors_of(page: Path) -> set[str]:
    """Return the names under which GitHub finds the headings of *page*."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings_of(page)}


def links_of(page: Path) -> list[tuple[str, str]]:
    return LINK.findall(prose_of(page))


# -- the code runs ---------------------------------------------------------------------------------------------


def is_quotation(block: Block) -> bool:
    return block.file is not None and "/" in block.file


def python_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the page's own, which stands for memory-backed storage, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sojourn.store.local.memory_backed_path", lambda: tmp_path / "shm")
    return tmp_path


def paced(page: Path) -> ParameterSet:
    """Two pages run whole contracts."""
    slow = page.name in ("write-a-store.md", "testing.md")
    return pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("page", [paced(page) for page in DOCS if python_of(page)])
def test_the_code_of_a_page_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, with warnings as errors. A block that names a file is one; the others may import it."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in python_of(page):
        if is_quotation(block):
            continue
        if block.file:
            (place / block.file).write_text(block.code)
            if not block.file.startswith("test_"):
                monkeypatch.delitem(sys.modules, block.file.removesuffix(".py"), raising=False)
                importlib.import_module(block.file.removesuffix(".py"))
                monkeypatch.delitem(sys.modules, block.file.removesuffix(".py"))
        else:
            exec(compile("\n" * block.line + block.code, page, "exec"), vars(module))
    if list(place.glob("test_*.py")):
        run_tests(place)


# Fewer random examples than a store of one's own deserves: here the question is whether the page is true.
CONFTEST = """
from sojourn.testing import session_contract, state_machine

session_contract.INTERLEAVINGS, state_machine.EXAMPLES, state_machine.STEPS = 20, 5, 10
"""


def run_tests(place: Path) -> None:
    """Run the tests in *place* as their reader would, in a process of their own."""
    (place / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--show-capture=no"]
    env = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")}  # where its tables are made already
    done = subprocess.run([*command, "."], cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_what_a_page_quotes_is_the_file(page: Path) -> None:
    for block in filter(is_quotation, python_of(page)):
        assert block.code == f"# {block.file}\n{(ROOT / str(block.file)).read_text()}"


def test_the_readmes_applications_keep_what_they_are_given(place: Path) -> None:
    starlette, flask = applications = [{"__name__": "shop"}, {"__name__": "shop"}]
    for block, namespace in zip(python_of(ROOT / "README.md"), applications, strict=True):
        exec(block.code, namespace)

    async def fill_the_cart() -> list[Any]:
        transport = httpx.ASGITransport(starlette["app"])  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as visitor:
            return [(await visitor.post(f"/cart/{item}")).json() for item in ("lamp", "chair")]

    assert asyncio.run(fill_the_cart()) == [["lamp"], ["lamp", "chair"]]
    visitor = flask["app"].test_client()
    with visitor.session_transaction() as session:
        session["cart"] = ["lamp"]
    with visitor.session_transaction() as session:
        assert session["cart"] == ["lamp"]


def test_starlettes_test_client_keeps_the_cookie_over_https_only() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that httpx is to make way for another package
        from starlette.testclient import TestClient

    from starlette.responses import JSONResponse

    from sojourn.adapters.starlette import SessionMiddleware

    async def count(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["visits"] = scope["session"].get("visits", 0) + 1
        await JSONResponse(scope["session"]["visits"])(scope, receive, send)

    app = SessionMiddleware(count, store="memory:")
    plain, secure = TestClient(app), TestClient(app, base_url="https://testserver")
    assert [plain.get("/").json() for _ in range(2)] == [1, 1]
    assert [secure.get("/").json() for _ in range(2)] == [1, 2]


def test_memory_is_one_process_and_ends_with_it() -> None:
    """What guarantees.md says of `memory:`: nobody shares it, and a new one is empty."""
    one, another = SessionManager("memory:"), SessionManager("memory:")
    session = one.begin(list, ())
    session["n"] = 1
    id = one.commit(session).id
    assert id is not None
    seen = [dict(each.begin(lambda cookie: [cookie], f"__Host-sid={id.public}")) for each in (one, another)]
    assert seen == [{"n": 1}, {}]


# -- links and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for _, target in links_of(page):
        if target.startswith("https://"):
            continue
        where, _, anchor = target.partition("#")
        path = (page.parent / where).resolve() if where else page
        assert path.is_relative_to(ROOT.resolve()), f"{target} leads out of the repository"
        assert path.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors_of(path), f"{target}: no such heading"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for _, target in links_of(index)}
    assert {page.resolve() for page in DOCS} - listed - {index.resolve()} == set()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "adapters").glob("*.md")), ids=name_of)
def test_the_pages_of_adapters_are_alike(page: Path) -> None:
    common = ["Set up", "In a handler", "Streams", "When something fails", "Behind a proxy", "Shown by"]
    assert [first for heading in headings_of(page) if (first := heading.partition(",")[0]) in common] == common


@cache
def defined_in(path: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in nodes if isinstance(node, kinds))


@cache
def all_tests() -> frozenset[str]:
    folders = (ROOT / "tests", ROOT / "examples")
    return frozenset(name for folder in folders for path in folder.rglob("*.py") for name in defined_in(path))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """A link to a Python file whose text is a name leads to its definition; so does every `path::name`."""
    for text, target in links_of(page):
        name = text.strip("`")
        if target.endswith(".py") and name.isidentifier() and "_" in name:
            assert name in defined_in((page.parent / target).resolve()), f"{target} does not define {name}"
    for path, name in re.findall(r"(\w[\w/]*\.py)::(\w+)", prose_of(page)):
        assert name in defined_in(ROOT / path), f"{path} does not define {name}"
    assert set(re.findall(r"\btest_\w+\b(?!\.py|/)", prose_of(page))) - all_tests() == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_commands_and_extras_that_a_page_names_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE)) <= set(targets)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"(?:sojourn|'\.)\[([a-z,]+)\]", text_of(page)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_every_command_and_option_is_documented() -> None:
    page = text_of(ROOT / "docs" / "cli.md")
    for name, command in commands_of(parser()).items():
        assert f"sojourn {name}" in page
        options = [option for action in command._actions for option in action.option_strings]
        assert [option for option in options if option not in page] == []


def commands_of(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [commands] = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


# -- tables ----------------------------------------------------------------------------------------------------

GUIDES = pytest.mark.parametrize(
    "guide", [ROOT / "docs" / "concepts.md", ROOT / "docs" / "concepts.zh-CN.md"], ids=name_of
)


def rows_of(page: Path) -> dict[str, list[str]]:
    """Return the cells of each table row that begins with a name, by that name."""
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", prose_of(page), re.MULTILINE)
    return {name: rest.split(" | ") for name, rest in rows}


def written(value: object) -> str:
    """Return *value* as the tables write it."""
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


@GUIDES
def test_every_public_name_and_setting_is_in_the_guide(guide: Path) -> None:
    settings = [name for kind in (SessionManager, Policy, Cookie, Codec) for name in inspect.signature(kind).parameters]
    assert [name for name in (*sojourn.__all__, *settings) if not re.search(rf"\b{name}\b", text_of(guide))] == []


@GUIDES
def test_the_defaults_in_the_guide_are_true(guide: Path) -> None:
    said, policy, cookie = {name: cells[0] for name, cells in rows_of(guide).items()}, Policy(), Cookie()
    for field in dataclasses.fields(Cookie):
        assert said[field.name] == written(getattr(cookie, field.name))
    durations = {"idle_timeout": MINUTE, "lifetime": HOUR, "touch_interval": MINUTE, "rotation_grace": 1}
    for name, unit in durations.items():
        assert said[name].split()[0] == f"{getattr(policy, name) / unit:.0f}"
    assert said["on_conflict"] == written(policy.on_conflict)
    for kind, name in (("Policy", "max_bytes"), ("Policy", "max_keys"), *(("Codec", n) for n in CODEC_BOUNDS)):
        bound = inspect.signature(getattr(sojourn, kind)).parameters[name].default
        assert re.search(rf"\| {bound:,}[^|]* \| `{kind}\({name}=...\)` \|", prose_of(guide)), (kind, name)


CODEC_BOUNDS = ("max_bytes", "max_depth", "max_items")


@GUIDES
def test_every_event_is_in_the_guide_with_its_level(guide: Path) -> None:
    rows = rows_of(guide)
    said = {kind: rows[kind.value][0] for kind in Happened}
    assert said == {kind: "warning" if kind in manager._WARNINGS else "info" for kind in Happened}


def test_every_name_for_tests_is_documented() -> None:
    page = text_of(ROOT / "docs" / "testing.md")
    assert [name for name in sojourn.testing.__all__ if f"`{name}`" not in page] == []


def test_every_setting_of_flask_that_is_honoured_is_documented() -> None:
    rows = rows_of(ROOT / "docs" / "adapters" / "flask.md")
    for theirs, ours in flask_adapter._COOKIE_SETTINGS.items():
        assert f"`{ours}`" in rows[theirs][0]


# -- the two languages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TRANSLATED, ids=name_of)
def test_a_translation_is_like_its_original(page: Path) -> None:
    original = english_of(page)
    assert outline_of(page) == outline_of(original)
    assert tables_of(page) == tables_of(original)
    assert [code_of(block) for block in blocks_of(page)] == [code_of(block) for block in blocks_of(original)]
    assert sorted(targets_of(page)) == sorted(targets_of(original))


def outline_of(page: Path) -> list[int]:
    return [len(found[1]) for found in HEADING.finditer(prose_of(page))]


def tables_of(page: Path) -> list[list[int]]:
    """Return the number of cells in each row of each table."""
    tables = re.findall(r"(?:^\|.*\|\n)+", prose_of(page), re.MULTILINE)
    return [[row.count("|") for row in table.splitlines()] for table in tables]


def code_of(block: Block) -> str:
    """Return the block without comments: those are translated."""
    if block.language != "python":
        return re.sub(r"\s*#.*", "", block.code)
    tokens = tokenize.generate_tokens(io.StringIO(block.code).readline)
    return " ".join(token.string for token in tokens if token.type != tokenize.COMMENT and not is_docstring(token))


def is_docstring(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.STRING and token.string.startswith('"""')


def targets_of(page: Path) -> list[str]:
    """Return where the links lead, whatever the language; the links between the languages are not counted."""
    targets = [target.replace(".zh-CN.md", ".md").partition("#")[0] for _, target in links_of(page)]
    return [target for target in targets if target != english_of(page).name]


# -- what no file holds ----------------------------------------------------------------------------------------

NOT_OURS = {".git", ".venv", ".hypothesis", "__pycache__", "build", "dist", "output"}
REGISTRIES = re.compile(
    r"pypi\.(?:org|io)|pythonhosted\.|npmjs\.|crates\.io|rubygems\.|proxy\.golang|--(?:extra-)?index"
    "-url"
)
MACHINE_PATHS = re.compile(r"/(?:home|Users)/\w|[A-Z]:\\\\?Users|(?<![\w.])/(?:root|work)/\w")


def our_files() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and not name.endswith(("_cache", ".egg-info"))]
        yield from (Path(folder, name) for name in files)


def test_no_file_names_a_registry_or_a_path_of_somebodys_machine() -> None:
    found = []
    for path in our_files():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [(name_of(path), match[0]) for kind in (REGISTRIES, MACHINE_PATHS) for match in kind.finditer(text)]
    assert found == []


def test_the_readme_is_one_screen() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 80
