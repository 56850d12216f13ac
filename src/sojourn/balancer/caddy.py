"""A Caddyfile for one site: round robin, a dead node left at once, and nothing repeated that could happen twice.

What is tried again on the next node (Caddy 2.9 or later):

* any request whose connection could not be made: the node has seen nothing of it;
* a GET, HEAD or OPTIONS whose connection broke before an answer came.

A POST that broke midway is not repeated: the node may have done its work. The visitor is told instead.
"""

from __future__ import annotations

from sojourn.balancer.nodes import AVOID_FOR, DIAL_TIMEOUT, SAFE_METHODS, TRY_FOR, Aside, Site


def caddyfile(site: Site, *, inherited_fd: int | None = None) -> str:
    """Return the Caddyfile for *site*.

    With *inherited_fd* Caddy takes over a listening socket from whoever starts it, and nobody can be faster at the
    port. Caddy has no remote control here and asks no certificate authority: it speaks plain http.
    """
    bind = site.listen.host if inherited_fd is None else f"fd/{inherited_fd:d}"
    return "\n".join([*_GLOBAL, "", *_nodes(site), "", *_site(site, bind), ""])


_GLOBAL = (
    "{",
    "\tadmin off",
    "\tauto_https off",
    "\tpersist_config off",
    "\tgrace_period 1s",
    "\tlog {",
    "\t\toutput stderr",
    "\t\tlevel WARN",
    "\t}",
    "}",
)

_SAFE = " ".join(SAFE_METHODS)


def _nodes(site: Site) -> list[str]:
    return [
        "(nodes) {",
        f"\treverse_proxy {' '.join(map(str, site.nodes))} {{",
        "\t\tlb_policy round_robin",
        f"\t\tlb_try_duration {TRY_FOR}s",
        "\t\tlb_try_interval 50ms",
        "\t\tlb_retry_match {",
        f"\t\t\tmethod {_SAFE}",
        "\t\t}",
        "\t\tmax_fails 1",
        f"\t\tfail_duration {AVOID_FOR}s",
        "\t\ttransport http {",
        f"\t\t\tdial_timeout {DIAL_TIMEOUT}s",
        # A fresh connection for each request: a dead node is then noticed by a refused dial, which any request
        # survives. On a kept connection it would be noticed too late for a POST.
        "\t\t\tkeepalive off",
        "\t\t}",
        "\t}",
        "}",
    ]


def _site(site: Site, bind: str) -> list[str]:
    return [
        f"http://:{site.listen.port} {{",
        f"\tbind {bind}",
        *(_aside(site.aside) if site.aside else ()),
        # Reads and writes go round apart. In one round a form's POST and the GET it redirects to would keep in step:
        # with an even number of nodes half of them would make no page.
        f"\t@reads method {_SAFE}",
        "\thandle @reads {",
        "\t\timport nodes",
        "\t}",
        "\thandle {",
        "\t\timport nodes",
        "\t}",
        "}",
    ]


def _aside(aside: Aside) -> list[str]:
    return [
        f"\thandle {aside.prefix}* {{",
        f"\t\treverse_proxy {aside.to}",
        "\t}",
        "\thandle_errors 502 503 504 {",
        f"\t\trewrite * {aside.sorry}?status={{err.status_code}}",
        f"\t\treverse_proxy {aside.to} {{",
        "\t\t\tmethod GET",
        "\t\t}",
        "\t}",
    ]
