# SPDX-License-Identifier: Apache-2.0
"""SGLang's default: one token a page. Answers, and everything that goes wrong."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq
from client import Client, RequestFailed, new_prompt
from deployment import Deployment, Setting

SETTING = Setting(page_size=1, liar=True)
LENGTHS = (5, 17, 64, 100, 257, 512, 1000, 1500)

# What each port gets: nothing that a peer would say.
MALFORMED = {
    "random bytes": os.urandom(512),
    "zeros": bytes(4096),
    "the longest frame": b"\xff\xff\xff\xff" + bytes(64),
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "nothing": b"",
}


def test_answers_equal_the_plain_servers(deployment: Deployment, plain: Client) -> None:
    """Prompts above 256 tokens are prefilled in chunks, and sent chunk by chunk."""
    for length in LENGTHS:
        prompt = new_prompt(length)
        assert deployment.router.complete(prompt) == plain.complete(prompt), length


def test_a_receiver_that_fetches_nothing_is_noticed(deployment: Deployment, plain: Client) -> None:
    """The negative control: without it, equal answers would prove nothing."""
    with deployment.lying():
        for length in LENGTHS[2:]:
            prompt = new_prompt(length)
            assert deployment.router.complete(prompt) != plain.complete(prompt), length
    prompt = new_prompt(100)
    assert deployment.router.complete(prompt) == plain.complete(prompt)


def test_lists_of_prompts_and_requests_at_once(deployment: Deployment, plain: Client) -> None:
    prompts = [new_prompt(length) for length in (30, 300, 700, 11, 90, 450)]
    expected = [plain.complete(prompt) for prompt in prompts]
    assert deployment.router.complete(prompts) == expected
    others = [new_prompt(length) for length in (31, 301, 701, 12, 91, 451, 1200, 60)]
    with ThreadPoolExecutor(len(others)) as threads:
        answers = list(threads.map(deployment.router.complete, others))
    assert answers == [plain.complete(prompt) for prompt in others]


def test_clients_that_hang_up(deployment: Deployment, plain: Client) -> None:
    """SGLang aborts their requests on both servers; an idle server that lost pages ends itself."""
    for round_ in range(4):
        deployment.router.walk_away(new_prompt(200 + round_), tokens=400)
        deployment.router.hang_up(new_prompt(1400 + round_), tokens=400)
    prompt = new_prompt(900)
    assert deployment.router.complete(prompt) == plain.complete(prompt)
    wait_idle(deployment)
    deployment.check()


def wait_idle(deployment: Deployment) -> None:
    """Until no aborted request is left: then a prompt that needs most of the cache has room."""
    prompt = new_prompt(3000)
    assert len(deployment.router.complete(prompt, tokens=2)) == 2


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_bytes_on_every_port_do_nothing(
    deployment: Deployment, plain: Client, what: str
) -> None:
    for port in [*deployment.engine_ports(), deployment.cluster.bootstrap_port]:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        # It may hang up while we are still talking.
        with connection, contextlib.suppress(OSError):
            connection.sendall(MALFORMED[what])
            connection.shutdown(socket.SHUT_WR)
    prompt = new_prompt(100)
    assert deployment.router.complete(prompt) == plain.complete(prompt)


def test_the_message_that_ends_the_in_tree_backends_thread(
    deployment: Deployment, plain: Client
) -> None:
    context = zmq.Context()
    for port in [*deployment.engine_ports(), deployment.cluster.bootstrap_port]:
        pusher = context.socket(zmq.PUSH)
        pusher.connect(f"tcp://127.0.0.1:{port}")
        pusher.send_multipart([b"notanumber", b"1", b"2", b"x"])
        time.sleep(0.5)
        pusher.close(linger=0)
    context.destroy(linger=0)
    prompt = new_prompt(100)
    assert deployment.router.complete(prompt) == plain.complete(prompt)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/register", []),
        ("/register", {"topology": None, "engines": {}}),
        ("/register", {"topology": {"tp_size": "many"}, "engines": {"0/0/0": "127.0.0.1:1"}}),
        ("/register_dp_rank", {"bootstrap_room": "x"}),
        ("/query_dp_ranks", {"bootstrap_rooms": 7}),
        ("/route", {}),
    ],
)
def test_malformed_bootstrap_messages_do_nothing(
    deployment: Deployment, plain: Client, path: str, body: object
) -> None:
    bootstrap = Client(f"http://127.0.0.1:{deployment.cluster.bootstrap_port}")
    with pytest.raises(RequestFailed, match="HTTP 40"):
        bootstrap.post(path, body)
    prompt = new_prompt(50)
    assert deployment.router.complete(prompt) == plain.complete(prompt)


def test_rooms_and_addresses_that_clients_make_up(deployment: Deployment, plain: Client) -> None:
    """They fail their own request, with a reason, and nobody is connected to."""
    decode = Client(deployment.decode.url)
    port = deployment.cluster.bootstrap_port
    room = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": 0}
    with pytest.raises(RequestFailed, match="bootstrap_room is 0"):
        decode.complete(new_prompt(20), **room)
    # Looked up 15 times, once a second, as SGLang has it; none of these goes to that host.
    room |= {"bootstrap_host": "192.0.2.1", "bootstrap_room": 5}
    with pytest.raises(RequestFailed, match="HTTP 500"):
        decode.complete(new_prompt(20), **room)
    assert "names host '192.0.2.1', which is not allowed" in deployment.decode.log.read_text()
    prompt = new_prompt(50)
    assert deployment.router.complete(prompt) == plain.complete(prompt)


def test_prefill_killed_and_restarted(deployment: Deployment, plain: Client) -> None:
    """Requests under way fail, none hangs or answers wrongly; afterwards all is as before."""
    prompts = [new_prompt(1500) for _ in range(6)]
    outcomes: list[object] = []

    def ask(prompt: list[int]) -> None:
        try:
            outcomes.append((prompt, deployment.router.complete(prompt)))
        except RequestFailed as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    deployment.kill_prefill()
    deployment.restart_prefill()
    for thread in threads:
        thread.join()
    assert len(outcomes) == len(prompts)
    for outcome in outcomes:
        if isinstance(outcome, tuple):
            assert outcome[1] == plain.complete(outcome[0])
    deployment.answer_again()
    for length in LENGTHS:
        prompt = new_prompt(length)
        assert deployment.router.complete(prompt) == plain.complete(prompt), length
    deployment.check()
