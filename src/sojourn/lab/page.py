"""The pages as text: what a view holds, as HTML. Pure; every value from outside passes ``escape``."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from sojourn.lab.cart import Cart, total
from sojourn.lab.catalog import CATALOG, Item
from sojourn.lab.texts import DEFAULT, TEXTS, Texts


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node in the panel. An empty *state* is filled in by the page's script."""

    name: str
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that the shop's page shows."""

    node: str
    pid: int
    language: str
    user: str | None
    handle: str | None
    cart: Cart
    trail: Sequence[Mapping[str, str]]
    values: Mapping[str, Any]
    nodes: Sequence[NodeView]
    token: str
    hosts: bool = False
    """Whether each node is a host with a store of its own."""


DOWN: Mapping[int, str] = {
    502: "The node that was asked died before it answered. A change it was to make may or may not have been made.",
    503: "No node answers at the moment.",
}
"""Why a visitor sees the page of the balancer: by status."""


def shop_page(view: View) -> str:
    """Return the shop with its panel."""
    words = TEXTS[view.language]
    panel = _backstage(view, words)
    body = f"{_top(view, words)}{_band(view, words)}<main>{_shelves(view, words)}{_cart(view, words)}{panel}</main>"
    return _document(words.title, view.language, body)


def down_page(status: int, nodes: Iterable[NodeView], token: str, hosts: bool = False) -> str:
    """Return the page for a visitor whom no node has answered."""
    panel = _nodes(nodes, token, TEXTS[DEFAULT], "One that is up is enough: restart one, then go back.", hosts)
    return _sorry("No answer from the shop", f"{DOWN[status]} The session is safe.", panel)


def unavailable_page(node: str, changed: bool, nodes: Iterable[NodeView], token: str, hosts: bool) -> str:
    """Return the page for a visitor whose session *node* cannot get hold of, or whose change is not safe there."""
    panel = _nodes(nodes, token, TEXTS[DEFAULT], TEXTS[DEFAULT].hosts_hint if hosts else "", hosts)
    why = UNSAFE if changed else UNSEEN
    return _sorry(f"{escape(node)} cannot answer for your session", why, panel)


UNSEEN = (
    "Your browser has seen a newer session than the one here, and the host that has it cannot be reached. Rather no "
    "answer than an old one. The next request goes to another host."
)
UNSAFE = "The change may or may not have been made: no other host has confirmed it. The next look shows which."


def _sorry(what: str, why: str, panel: str) -> str:
    body = (
        f'<main class="down"><section class="card"><h1>{what}</h1><p>{why}</p>'
        f'<p><a class="button" id="back" href="/">Back to the shop</a></p></section>'
        f'<aside class="card">{panel}</aside></main>'
    )
    return _document(TEXTS[DEFAULT].title, DEFAULT, body)


# -- the head of the page ----------------------------------------------------------------------------------


def _top(view: View, words: Texts) -> str:
    account = _account(view.user, words) if view.user else _login(words)
    return (
        f'<header><div class="brand"><h1>{words.title}</h1><p>{words.slogan}</p></div>'
        f"{_languages(view.language)}{account}</header>"
    )


def _languages(chosen: str) -> str:
    buttons = (
        f'<button name="language" value="{code}" lang="{code}"{_pressed(code == chosen)}>{words.language}</button>'
        for code, words in TEXTS.items()
    )
    return f'<form class="languages" method="post" action="/language">{"".join(buttons)}</form>'


def _pressed(yes: bool) -> str:
    return ' aria-pressed="true"' if yes else ""


def _login(words: Texts) -> str:
    return (
        '<form class="account" method="post" action="/login">'
        f'<input name="name" required maxlength="40" placeholder="{words.name}" aria-label="{words.name}" '
        f'title="{words.hint}" autocomplete="off"><button class="primary">{words.log_in}</button></form>'
    )


def _account(user: str, words: Texts) -> str:
    return (
        f'<form class="account" method="post" action="/logout"><b id="user">{escape(user)}</b>'
        f"<button>{words.log_out}</button></form>"
    )


def _band(view: View, words: Texts) -> str:
    """Return the coloured line that says who did what: a click is two requests, the change and the page after it."""
    click = f"{_part('click', view.trail[-1]['node'], words.last_click)}</span>" if view.trail else ""
    page = f"{_part('node', view.node, words.this_page)} <small>pid {view.pid}</small></span>"
    return f'<p class="band">{click}{page}</p>'


def _part(id: str, node: str, words: str) -> str:
    return f'<span class="{_colour(node)}">{words} <b id="{id}">{escape(node)}</b>'


# -- the shop ----------------------------------------------------------------------------------------------


def _shelves(view: View, words: Texts) -> str:
    items = "".join(_item(item, view.language, words) for item in CATALOG.values())
    return f'<form class="shelves" method="post" action="/cart">{items}</form>'


def _item(item: Item, language: str, words: Texts) -> str:
    return (
        f'<article class="card item">{_drawing(item)}<h2>{item.names[language]}</h2>'
        f"<p>{_price(item.cents, words)}</p>"
        f'<button name="item" value="{item.id}" class="primary">{words.add}</button></article>'
    )


def _drawing(item: Item) -> str:
    return f'<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{item.drawing}"/></svg>'


def _price(cents: int, words: Texts) -> str:
    return words.price.format(f"{cents // 100}{words.point}{cents % 100:02}")


def _cart(view: View, words: Texts) -> str:
    lines = "".join(_line(CATALOG[item], count, view.language, words) for item, count in view.cart.items())
    content = f"<ul>{lines}</ul>{_total(view.cart, words)}" if lines else f'<p class="quiet">{words.empty}</p>'
    return f'<section class="card cart"><h2>{words.cart}</h2>{content}</section>'


def _line(item: Item, count: int, language: str, words: Texts) -> str:
    return (
        f'<li data-item="{item.id}">{_drawing(item)}<span>{item.names[language]}</span>'
        f'<form method="post" action="/cart"><input type="hidden" name="item" value="{item.id}">'
        f'<button name="by" value="-1" title="{words.fewer}">&minus;</button><b>{count}</b>'
        f'<button name="by" value="1" title="{words.more}">+</button></form>'
        f"<span>{_price(item.cents * count, words)}</span></li>"
    )


def _total(cart: Cart, words: Texts) -> str:
    return f'<p class="total"><span>{words.total}</span><b>{_price(total(cart), words)}</b></p>'


# -- behind the counter ------------------------------------------------------------------------------------


def _backstage(view: View, words: Texts) -> str:
    hint = words.hosts_hint if view.hosts else words.nodes_hint
    nodes = _nodes(view.nodes, view.token, words, hint, view.hosts) if view.nodes else ""
    return (
        f'<aside class="card backstage"><h2>{words.backstage}</h2>{nodes}'
        f"{_trail(view, words)}{_session(view, words)}</aside>"
    )


def _nodes(nodes: Iterable[NodeView], token: str, words: Texts, hint: str, hosts: bool) -> str:
    rows = "".join(_node(number, node, token, words, hosts) for number, node in enumerate(nodes, 1))
    title = words.hosts if hosts else words.nodes
    return f'<h3>{title}</h3><p class="quiet">{hint}</p><ul class="nodes">{rows}</ul>'


def _node(number: int, node: NodeView, token: str, words: Texts, hosts: bool) -> str:
    at = f"/_lab/nodes/{number}"
    return (
        f'<li class="{_colour(node.name)}" data-node="{escape(node.name)}" data-state="{node.state}">'
        f'<b class="dot">{escape(node.name)}</b><span class="state">{node.state}</span><small class="pid"></small>'
        f"{_store_of_its_own(words) if hosts else ''}"
        f'<form method="post"><input type="hidden" name="token" value="{escape(token)}">'
        f'<button class="kill" formaction="{at}/kill">{words.kill}</button>'
        f'<button class="restart" formaction="{at}/restart">{words.restart}</button>'
        f"{_faults(at, words) if hosts else ''}</form></li>"
    )


def _faults(at: str, words: Texts) -> str:
    return (
        f'<button class="cut" formaction="{at}/cut" title="{words.cut_hint}">{words.cut}</button>'
        f'<button class="heal" formaction="{at}/heal">{words.heal}</button>'
        f'<button class="wipe" formaction="{at}/wipe" title="{words.wipe_hint}">{words.wipe}</button>'
    )


def _store_of_its_own(words: Texts) -> str:
    return f'<small class="own">{words.holds} <b class="held"></b></small><b class="apart">{words.apart}</b>'


def _trail(view: View, words: Texts) -> str:
    steps = "".join(_step(step["node"], step["did"]) for step in view.trail)
    return f'<h3>{words.clicks}</h3><ol class="trail">{steps}{_step(view.node, f"({words.this_page})")}</ol>'


def _step(node: str, did: str) -> str:
    return f'<li class="{_colour(node)}"><b class="dot">{escape(node)}</b> {escape(did)}</li>'


def _session(view: View, words: Texts) -> str:
    if view.handle is None:
        return f'<h3>{words.session}</h3><p class="quiet">{words.no_session}</p>'
    user = f"<b>{escape(view.user)}</b>" if view.user else words.nobody
    values = "\n".join(_value(key, view.values[key]) for key in sorted(view.values))
    return (
        f'<h3>{words.session}</h3><dl><dt>{words.handle}</dt><dd><code id="handle">{escape(view.handle)}</code></dd>'
        f"<dt>{words.user}</dt><dd>{user}</dd></dl><pre>{values}</pre>"
    )


def _value(key: str, value: object) -> str:
    return f"<b>{escape(key)}</b> {escape(json.dumps(value, ensure_ascii=False))}"


def _colour(node: str) -> str:
    """Return the class that gives a node its colour: ``n3`` for ``node-3``."""
    number = node.rpartition("-")[2]
    return f"n{number}" if number.isdecimal() and number.isascii() else "n0"


# -- the document ------------------------------------------------------------------------------------------


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return *text* as a source of a Content-Security-Policy, so that nothing else inline is obeyed."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_SKELETON, _STYLE, _SCRIPT = Template(_read("page.html")), _read("page.css"), _read("page.js")

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""What every page is sent with."""


def _document(title: str, language: str, body: str) -> str:
    return _SKELETON.substitute(title=title, language=language, style=_STYLE, script=_SCRIPT, body=body)
