"""``sojourn cluster``: certificates for the hosts of a cluster, and what an operator asks of its agents."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sojourn.cli.urls import url_in
from sojourn.errors import ConfigurationError

if TYPE_CHECKING:
    from sojourn.cluster.settings import Settings
    from sojourn.crypto.certificates import Authority, Issued

WRONG, FOUND = 2, 3  # exit statuses: a wrong setting; something that wants an operator. 1: it could not be done

LONGEST_WAIT = 3600  # seconds
LONGEST = 3650  # days of a host's certificate; the authority's lasts as long


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command, with its own commands, to the command line."""
    about = "certificates for the hosts of a cluster (peers:), and what its agents know"
    parser = commands.add_parser("cluster", help=about, description=about)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_certs(actions)
    _add_agent(actions)
    _add_status(actions)
    _add_leave(actions)
    _add_forget(actions)


def _add_certs(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "make a test authority, and a certificate for each host that it signs"
    parser = actions.add_parser("certs", help=about, description=about)
    named = "a host's name or address, as the URL has it without the port; may be given many times"
    parser.add_argument("--host", action="append", default=[], metavar="HOST", help=named)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where; made with mode 0700")
    parser.add_argument("--days", type=int, default=365, help="that the hosts' certificates last (default: 365)")
    renew = "replace certificates by new ones of the same authority; the old ones are kept beside them"
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--renew", action="store_true", help=f"{renew}; without --host those of all hosts")
    either.add_argument("--revoke", action="store_true", help="put those of the hosts on the list of revoked ones")
    parser.set_defaults(run=_checked(certs))


def _add_agent(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "run this host's agent in the foreground, for a service manager; a worker would start it, too"
    parser = actions.add_parser("agent", help=about, description=about)
    _add_url(parser)
    parser.set_defaults(run=_checked(agent))


def _add_status(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "ask this host's agent how the cluster is; status 3 if something is not as it should be"
    parser = actions.add_parser("status", help=about, description=about)
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="print everything the agent says, as JSON")
    parser.set_defaults(run=_checked(status))


def _add_leave(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "have this host leave the cluster for good: it hands its sessions on, then its agent ends"
    parser = actions.add_parser("leave", help=about, description=about)
    _add_url(parser)
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="at most (default: 60)")
    parser.set_defaults(run=_checked(leave))


def _add_forget(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "have the cluster forget a dead host that will not come back, so that nobody waits for what it alone had"
    parser = actions.add_parser("forget", help=about, description=about)
    _add_url(parser)
    parser.add_argument("host", metavar="HOST:PORT", help="the dead host, as sojourn cluster status names it")
    parser.set_defaults(run=_checked(forget))


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="the peers: URL of the application, or env:NAME for a variable that holds it")


def _checked(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return *run* with a wrong setting as one line and status 2."""

    def checked(args: argparse.Namespace) -> int:
        try:
            return run(args)
        except ConfigurationError as error:
            print(f"sojourn cluster {args.action}: {error}", file=sys.stderr)
            return WRONG

    return checked


# -- certs ---------------------------------------------------------------------------------------------------------


def certs(args: argparse.Namespace) -> int:
    """Make certificates and print where they are; return the exit status."""
    try:
        from sojourn.crypto.certificates import Authority  # noqa: PLC0415  (needs an extra)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed; run: pip install 'sojourn[encryption]'") from error
    if not 1 <= args.days <= LONGEST:
        raise ConfigurationError(f"days={args.days}: give a number from 1 to {LONGEST}")
    authority = Authority(args.out)
    if args.revoke:
        print(_revoked(authority, args.host, time.time()))
        return 0
    print(render_certs(authority, _issued(authority, args, time.time())))
    return 0


def _issued(authority: Authority, args: argparse.Namespace, now: float) -> list[Issued]:
    if args.renew:
        if not (hosts := args.host or authority.hosts()):
            raise ConfigurationError(f"{authority.directory} has no certificate of a host, so nothing to renew")
        return [authority.renew(host, now, args.days) for host in hosts]
    if not args.host:
        raise ConfigurationError("give each host of the cluster, such as --host app1.example --host 10.0.0.2")
    _check_new(authority, args.host)
    if not authority.exists():
        authority.create(now)
    return [authority.issue(host, now, args.days) for host in args.host]


def _revoked(authority: Authority, hosts: Sequence[str], now: float) -> str:
    if not hosts:
        raise ConfigurationError("say whose certificates, such as --revoke --host app1.example")
    kept = [str(path) for host in hosts for path in authority.revoke(host, now)]
    return "\n".join([*kept, "", f"Copy {authority.revoked} to every host, beside its ca.pem, whenever it changes."])


def _check_new(authority: Authority, hosts: Sequence[str]) -> None:
    """Look at all hosts before anything is made, so that a wrong one leaves nothing half done."""
    for host in hosts:
        authority.check_new(host)
    if len({authority.directory_of(host) for host in hosts}) < len(hosts):
        raise ConfigurationError("a host is given twice")


def render_certs(authority: Authority, issued: Sequence[Issued]) -> str:
    """Return a table of directories, and what to do with them."""
    width = max(len(one.host) for one in issued)
    rows = [f"{one.host:{width}}  {one.directory}  until {one.until:%Y-%m-%d}{_kept(one)}" for one in issued]
    return "\n".join(
        [
            *rows,
            "",
            "Copy each directory to its host and to no other, and name it there: peers://…?tls=/etc/sojourn",
            f"{authority.key} can make a certificate for any host: it must not travel, and no host needs it.",
        ]
    )


def _kept(one: Issued) -> str:
    return f"  (the old: {one.before})" if one.before else ""


# -- the agent -----------------------------------------------------------------------------------------------------


def agent(args: argparse.Namespace) -> int:
    """Run the agent until a signal ends it; return the exit status."""
    settings = _settings(args)
    from sojourn.store.peers.agent import run  # noqa: PLC0415  (needs an extra, and asyncio)

    return run(settings, stay=True)


def status(args: argparse.Namespace) -> int:
    """Print the cluster as this host sees it; return the exit status."""
    settings = _settings(args)
    from sojourn.store.peers import operators  # noqa: PLC0415  (needs an extra)

    view = operators.status(settings)
    print(json.dumps(view, indent=2, default=repr) if args.json else render_status(view))
    return FOUND if troubles(view) else 0


def leave(args: argparse.Namespace) -> int:
    """Have this host leave, and print what came of it; return the exit status."""
    if not 0 < args.wait <= LONGEST_WAIT:
        raise ConfigurationError(f"wait={args.wait:g}: give seconds, up to {LONGEST_WAIT}")
    settings = _settings(args)
    from sojourn.store.peers import operators  # noqa: PLC0415  (needs an extra)

    view = operators.leave(settings, args.wait)
    if view.get("left"):
        print(f"{settings.me} has left{_farewell(view, settings.me)}")
        return 0
    print(
        f"sojourn cluster leave: {view.get('remaining') or 'some'} sessions are not on enough other hosts yet, and "
        f"{settings.me} is still a member; see sojourn cluster status, and try again with a longer --wait",
        file=sys.stderr,
    )
    return 1


def _farewell(view: Mapping[str, Any], me: str) -> str:
    """Return how the host *me* has left, and what is to be done where no other was there to hear it."""
    others = {member["state"] for member in view["members"] if member["name"] != me} - {"left"}
    if "alive" in others:
        return ": its sessions are on other hosts."
    if not others:
        return ", and there is no other host."
    return f", and no other host was there to hear it. When one is back, run there: sojourn cluster forget URL {me}"


def forget(args: argparse.Namespace) -> int:
    """Have the cluster forget a dead host, and print what came of it; return the exit status."""
    settings = _settings(args)
    from sojourn.store.peers import operators  # noqa: PLC0415  (needs an extra)

    view = operators.forget(settings, args.host)
    if view.get("forgotten"):
        print(f"{args.host} is forgotten: nobody waits for what it alone had.")
        return 0
    state = next((member["state"] for member in view["members"] if member["name"] == args.host), "away")
    print(
        f"sojourn cluster forget: {args.host} is {state}, and only a dead host can be forgotten; see sojourn cluster "
        "status",
        file=sys.stderr,
    )
    return 1


def _settings(args: argparse.Namespace) -> Settings:
    url = url_in(args.store)
    if not url.startswith("peers:"):
        raise ConfigurationError("only a peers: URL names a cluster; give the one that the application has")
    try:
        from sojourn.store.peers import settings_of  # noqa: PLC0415  (needs an extra)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed; run: pip install 'sojourn[peers]'") from error
    return settings_of(url)


# -- what status prints --------------------------------------------------------------------------------------------


def troubles(view: dict[str, Any]) -> list[str]:
    """Return what is not as it should be, a sentence each: what a monitor should wake somebody for."""
    members = [member for member in view["members"] if member["state"] != "left"]
    found = [f"{member['name']} is {member['state']}." for member in members if member["state"] != "alive"]
    alive = [member for member in members if member["state"] == "alive"]
    found += [
        f"{member['name']} is alive and cannot be reached from here." for member in alive if not member["connected"]
    ]
    found += [f"{member['name']} has not caught up yet." for member in alive if not member["ready"]]
    if len(members) < 2:
        found.append(f"{view['me']} has met no other host.")
    return found


def render_status(view: dict[str, Any]) -> str:
    """Return the members as a table, what is kept where, and what is not as it should be."""
    rows = [("host", "state", "ready", "lag", "behind"), *(_row(view, member) for member in view["members"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    kept = f"copies={_or_all(view['copies'])}, acks={_or_all(view['acks'])}, alone={view['alone']}"
    counted = f"writes on too few hosts: {view['under_replicated']}, values changed by two at once: {view['clashes']}"
    return "\n".join([*table, "", f"{kept}; {counted}", *(["", *found] if (found := troubles(view)) else [])])


def _row(view: dict[str, Any], member: dict[str, Any]) -> tuple[str, ...]:
    own = member["name"] == view["me"]
    name, ready = f"{member['name']}{' (here)' if own else ''}", "yes" if member["ready"] else "no"
    if own:
        return name, member["state"], ready, "", ""
    return name, member["state"], ready, _number(member["lag_ms"], " ms"), _number(member["behind"])


def _number(number: int | None, unit: str = "") -> str:
    return "?" if number is None else f"{number}{unit}"


def _or_all(number: int | None) -> str:
    return "all" if number is None else str(number)
