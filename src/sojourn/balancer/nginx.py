"""A configuration of nginx for one site: round robin, a dead node left at once, no POST repeated that broke midway.

What is tried again on the next node:

* any request whose connection could not be made: the node has seen nothing of it;
* a request that broke before an answer came, unless it is a POST, LOCK or PATCH. (nginx holds a request's body back
  until it is complete, so PUT and DELETE, which HTTP defines as safe to repeat, are repeated whole.)

``non_idempotent`` is left out of ``proxy_next_upstream`` for that reason.
"""

from __future__ import annotations

from sojourn.balancer.nodes import AVOID_FOR, DIAL_TIMEOUT, SAFE_METHODS, TRY_FOR, Address, Aside, Site


def nginx_conf(site: Site) -> str:
    """Return the whole configuration for *site*, to be run by ``nginx -p DIRECTORY -e stderr -c FILE``.

    nginx stays in the foreground, one process under whichever user starts it. All of its files are relative to
    DIRECTORY, so that it needs neither root nor a place in /var.
    """
    lines = [
        "daemon off;",
        "master_process off;",
        "pid nginx.pid;",
        "error_log stderr warn;",
        "events {}",
        "http {",
        "    access_log off;",
        "    server_tokens off;",
        *(f"    {kind}_temp_path temp-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        # Reads and writes go round apart. In one round a form's POST and the GET it redirects to would keep in step:
        # with an even number of nodes half of them would make no page.
        "    map $request_method $pool {",
        "        default writes;",
        *(f"        {method} reads;" for method in SAFE_METHODS),
        "    }",
        *_upstream("reads", site.nodes),
        *_upstream("writes", site.nodes),
        "    server {",
        f"        listen {site.listen};",
        *_nodes(site.aside),
        *(_aside(site.aside) if site.aside else ()),
        "    }",
        "}",
        "",
    ]
    return "\n".join(lines)


def _upstream(name: str, nodes: tuple[Address, ...]) -> list[str]:
    # No `keepalive`: with a fresh connection for each request a dead node is noticed by a refused dial, which any
    # request survives. On a kept connection it would be noticed too late for a POST.
    return [
        f"    upstream {name} {{",
        *(f"        server {node} max_fails=1 fail_timeout={AVOID_FOR}s;" for node in nodes),
        "    }",
    ]


def _nodes(aside: Aside | None) -> list[str]:
    return [
        "        location / {",
        "            proxy_pass http://$pool;",
        *_HEADERS,
        f"            proxy_connect_timeout {DIAL_TIMEOUT}s;",
        "            proxy_next_upstream error timeout;",
        f"            proxy_next_upstream_timeout {TRY_FOR}s;",
        *([f"            error_page 502 503 504 {aside.sorry};"] if aside else ()),
        "        }",
    ]


def _aside(aside: Aside) -> list[str]:
    return [
        f"        location {aside.prefix} {{",
        f"            proxy_pass http://{aside.to};",
        *_HEADERS,
        "        }",
    ]


# What the client claims in X-Forwarded-* is replaced, never passed on.
_HEADERS = (
    "            proxy_http_version 1.1;",
    '            proxy_set_header Connection "";',
    "            proxy_set_header Host $http_host;",
    "            proxy_set_header X-Forwarded-For $remote_addr;",
    "            proxy_set_header X-Forwarded-Proto $scheme;",
    "            proxy_set_header X-Forwarded-Host $http_host;",
)
