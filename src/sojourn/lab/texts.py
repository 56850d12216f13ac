"""What the shop says, in each of its languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The words of the shop in one language. *price* formats an amount of euros."""

    language: str
    title: str
    slogan: str
    name: str
    log_in: str
    log_out: str
    hint: str
    add: str
    cart: str
    empty: str
    total: str
    more: str
    fewer: str
    last_click: str
    backstage: str
    clicks: str
    this_page: str
    session: str
    no_session: str
    handle: str
    user: str
    nobody: str
    nodes: str
    nodes_hint: str
    hosts: str
    hosts_hint: str
    kill: str
    restart: str
    cut: str
    cut_hint: str
    heal: str
    apart: str
    wipe: str
    wipe_hint: str
    holds: str
    point: str = "."
    price: str = "€{}"


TEXTS: Mapping[str, Texts] = {
    "en": Texts(
        language="English",
        title="The Little Travel Shop",
        slogan="Several nodes behind the counter, one session",
        name="Your name",
        log_in="Log in",
        log_out="Log out",
        hint="No password: it is a demo.",
        add="Add",
        cart="Cart",
        empty="Nothing in it yet.",
        total="Total",
        more="One more",
        fewer="One fewer",
        last_click="Last click",
        backstage="Behind the counter",
        clicks="Which node did what",
        this_page="This page",
        session="What the session holds",
        no_session="No session yet. The first change begins one; looking around does not.",
        handle="Handle",
        user="Logged in",
        nobody="nobody",
        nodes="Nodes",
        nodes_hint="Kill any of them and go on shopping.",
        hosts="Hosts, each with a store of its own",
        hosts_hint="Kill one, cut one off from the others, wipe one, and go on shopping.",
        kill="kill -9",
        restart="restart",
        cut="cut off",
        cut_hint="The other hosts no longer reach it, nor it them. Visitors still do.",
        heal="reconnect",
        apart="cut off from the others",
        wipe="wipe",
        wipe_hint="Kill it, remove its store, and start it again.",
        holds="Its own store has in your cart:",
    ),
    "de": Texts(
        language="Deutsch",
        title="Der kleine Reiseladen",
        slogan="Mehrere Knoten hinter der Theke, eine Sitzung",
        name="Ihr Name",
        log_in="Anmelden",
        log_out="Abmelden",
        hint="Kein Passwort: dies ist eine Vorführung.",
        add="Dazu",
        cart="Warenkorb",
        empty="Noch nichts darin.",
        total="Summe",
        more="Eins mehr",
        fewer="Eins weniger",
        last_click="Letzter Klick",
        backstage="Hinter der Theke",
        clicks="Welcher Knoten was getan hat",
        this_page="Diese Seite",
        session="Was die Sitzung enthält",
        no_session="Noch keine Sitzung. Die erste Änderung beginnt eine, bloßes Umsehen nicht.",
        handle="Kennung",
        user="Angemeldet",
        nobody="niemand",
        nodes="Knoten",
        nodes_hint="Beenden Sie einen und kaufen Sie weiter ein.",
        hosts="Hosts, jeder mit eigenem Speicher",
        hosts_hint="Beenden, trennen oder leeren Sie einen und kaufen Sie weiter ein.",
        kill="kill -9",
        restart="neu starten",
        cut="abtrennen",
        cut_hint="Die anderen Hosts erreichen ihn nicht mehr und er sie nicht. Besucher erreichen ihn noch.",
        heal="verbinden",
        apart="von den anderen getrennt",
        wipe="leeren",
        wipe_hint="Beenden, den Speicher löschen und neu starten.",
        holds="Sein eigener Speicher hat in Ihrem Warenkorb:",
        point=",",
        price="{}\N{NO-BREAK SPACE}€",
    ),
    "zh": Texts(
        language="中文",
        title="小小旅行店",
        slogan="柜台后的多个节点共用一个会话",
        name="您的名字",
        log_in="登录",
        log_out="退出",
        hint="演示程序无需密码。",
        add="加入",
        cart="购物车",
        empty="还没有商品。",
        total="合计",
        more="加一件",
        fewer="减一件",
        last_click="上次点击",
        backstage="柜台后面",
        clicks="哪个节点做了什么",
        this_page="本页",
        session="会话中的内容",
        no_session="还没有会话。第一次更改时才会建立。",
        handle="会话代号",
        user="已登录",
        nobody="无",
        nodes="节点",
        nodes_hint="终止任何一个节点后仍可继续购物。",
        hosts="各有自己存储的主机",
        hosts_hint="终止、隔离或清空任何一台主机后仍可继续购物。",
        kill="kill -9",
        restart="重新启动",
        cut="隔离",
        cut_hint="其他主机与它互不可达。访客仍可访问它。",
        heal="恢复连接",
        apart="已与其他主机隔离",
        wipe="清空",
        wipe_hint="终止它并删除其存储。然后重新启动。",
        holds="它自己的存储中您的购物车件数",
    ),
}

DEFAULT = "en"
