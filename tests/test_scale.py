"""What the page about scale says is what was measured, and the arithmetic behind it is arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench import scale_model, scale_page
from bench.rounds import Broken
from bench.scale_model import Shop, Units, derive

UNITS = Units(
    session=4000.0,
    tombstone=500.0,
    write=250.0,
    sends=100.0,
    stores=200.0,
    both_many=150.0,
    asked=400.0,
    asked_read=2000.0,
    asked_write=4250.0,
    rest=1000.0,
    rest_cpu=100_000.0,
    moved=2500.0,
    taken=4.0,
)
SHOP = Shop(hosts=10, workers=4, sessions=1_000_000, requests=25.0, writes=0.2, ended=1000, kept=10)

RESULTS = """
### Bytes of a write, and what more hosts cost

Said before the table.

| a write | to each that holds a copy, bytes | all hosts, with the answers, bytes | CPU of all agents, µs |
|---|---:|---:|---:|
| 3 hosts, copies=all | 220 | 500 | 1,200 |
| 3 hosts, copies=2 | 220 | 250 | 600 |

### A host that comes back with an empty disk, 100,000 sessions of 2 KB

The agent answered 0.61 s after its start, and had everything after 3.20 s; at most 4 s: PASS from its start.
"""


def test_a_host_keeps_its_share_of_the_sessions_and_of_their_ends() -> None:
    costs = derive(SHOP, 2, UNITS)
    assert costs.kept == pytest.approx(200_000)
    assert costs.tombstones == pytest.approx(10_000 * 0.2 * 500)
    assert costs.storage == pytest.approx(200_000 * 4000 + costs.tombstones)
    assert derive(SHOP, None, UNITS).kept == SHOP.sessions


def test_each_write_is_paid_for_by_its_writer_and_by_all_that_store_it() -> None:
    writes = 10 * 4 * 25 * 0.2
    costs = derive(SHOP, 3, UNITS)
    assert costs.cpu_writes == pytest.approx(writes * (100 + 2 * 200) / 10 / 1e6)
    assert costs.shipped == pytest.approx(writes * 250 / 10)
    assert derive(SHOP, None, UNITS).cpu_writes == pytest.approx(writes * (100 + 9 * 200) / 10 / 1e6)


def test_agents_that_are_full_at_rest_take_no_writes() -> None:
    assert derive(SHOP, 2, UNITS).most_writes == pytest.approx(0.9 / (150 / 10 / 1e6))
    assert derive(SHOP, 2, replace(UNITS, rest_cpu=2e6)).most_writes == 0


def test_a_death_is_made_good_by_the_survivors_and_costs_nothing_where_all_have_everything() -> None:
    costs = derive(SHOP, 2, UNITS)
    assert costs.lost == pytest.approx(200_000)
    assert costs.lost_bytes == pytest.approx(200_000 * 2500)
    assert costs.lost_seconds == pytest.approx(200_000 / 9 / 100_000 * 4.0)
    assert costs.joined_seconds == pytest.approx(2 * 4.0)
    assert derive(SHOP, None, UNITS).lost == 0


def test_what_was_not_measured_is_said_so() -> None:
    rows = [*scale_model.rows({"copies=2": derive(SHOP, 2, replace(UNITS, taken=None))})]
    assert ("an empty host has its share after", "not measured") in rows


def test_visits_at_any_host_ask_as_often_as_they_find_no_copy() -> None:
    costs = derive(SHOP, 2, UNITS)
    assert costs.elsewhere == pytest.approx(0.8)
    assert costs.cpu_asking == pytest.approx(1000 * 1.2 * 0.8 * 400 / 10 / 1e6)
    assert costs.asking == pytest.approx(1000 * (0.8 * 2000 + 0.2 * 4000) / 10)


def test_the_results_of_replication_are_read() -> None:
    assert scale_model.measured(RESULTS) == scale_model.Measured(1200.0, 3.2)
    assert scale_model.measured(RESULTS.replace("3 hosts, copies=all", "4 hosts, copies=all")) is None
    assert scale_model.measured(RESULTS.replace("100,000", "10,000")) is None


def test_a_page_is_filled_from_results_and_from_nothing_else() -> None:
    page = "Before.\n<!-- from results: B -->\nold\n<!-- to here -->\nAfter.\n"
    once = scale_page.filled(page, "## A\n\none\n\n### B\n\n| two |\n")
    assert once == "Before.\n<!-- from results: B -->\n\n| two |\n\n<!-- to here -->\nAfter.\n"
    assert scale_page.filled(once, "### B\n\n| two |\n") == once
    with pytest.raises(Broken, match="B"):
        scale_page.filled(page, "## A\n\none\n")
