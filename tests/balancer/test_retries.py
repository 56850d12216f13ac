"""What the real balancers do when a node breaks: everything safe is tried again, nothing that could happen twice."""

from typing import Any

import httpx
import pytest

from sojourn.balancer.nodes import Aside

pytestmark = pytest.mark.slow


def test_a_get_that_broke_midway_is_answered_by_the_next_node(stage: Any) -> None:
    broken, sound = stage.upstream("breaks"), stage.upstream("answers")
    url = stage.balancer(broken.address, sound.address)
    assert [httpx.get(url).text for _ in range(4)] == ["done"] * 4
    assert broken.requests
    assert len(sound.requests) == 4


def test_a_post_that_broke_midway_is_never_sent_again(stage: Any) -> None:
    broken, sound = stage.upstream("breaks"), stage.upstream("answers")
    url = stage.balancer(broken.address, sound.address)
    statuses = [httpx.post(url, content=f"order {n}").status_code for n in range(6)]
    assert len(broken.requests) + len(sound.requests) == 6
    assert statuses.count(502) == len(broken.requests) > 0
    assert statuses.count(200) == len(sound.requests)


def test_a_post_that_reached_no_node_is_sent_to_the_next_with_its_whole_body(stage: Any) -> None:
    sound = stage.upstream("answers")
    url = stage.balancer(stage.nobody(), sound.address)
    order = "tent" * 50_000
    assert [httpx.post(url, content=order).text for _ in range(4)] == ["done"] * 4
    assert [request.partition(b"\r\n\r\n")[2].decode() for request in sound.requests] == [order] * 4


def test_requests_go_round(stage: Any) -> None:
    nodes = [stage.upstream("answers") for _ in range(3)]
    url = stage.balancer(*(node.address for node in nodes))
    for _ in range(6):
        httpx.get(url)
    assert [len(node.requests) for node in nodes] == [2, 2, 2]


def test_a_failure_is_explained_by_the_page_aside_and_keeps_its_status(stage: Any) -> None:
    broken, helper = stage.upstream("breaks"), stage.upstream("sorry")
    url = stage.balancer(broken.address, aside=Aside("/_lab/", helper.address, "/_lab/down"))
    answer = httpx.post(url + "/cart", content="item=tent")
    assert (answer.status_code, answer.text) == (502, "sorry")
    assert helper.requests[0].startswith(b"GET /_lab/down")


def test_the_path_aside_is_answered_aside(stage: Any) -> None:
    node, helper = stage.upstream("answers"), stage.upstream("answers")
    url = stage.balancer(node.address, aside=Aside("/_lab/", helper.address, "/_lab/down"))
    assert httpx.get(url + "/_lab/nodes").text == "done"
    assert (len(node.requests), len(helper.requests)) == (0, 1)


def test_nodes_learn_the_host_and_nothing_that_the_client_made_up(stage: Any) -> None:
    node = stage.upstream("answers")
    url = stage.balancer(node.address)
    httpx.get(url, headers={"X-Forwarded-For": "10.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil"})
    head = node.requests[0].decode().lower()
    assert "host: " + url.removeprefix("http://") in head
    assert "10.6.6.6" not in head
    assert "evil" not in head
    assert "x-forwarded-proto: http\r\n" in head
