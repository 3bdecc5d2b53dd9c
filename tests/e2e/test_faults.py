# SPDX-License-Identifier: Apache-2.0
"""Real servers that are killed and started again, and clients and routers that go away.

One set of servers serves all tests: a prefill server, a decode server that fails a request whose KV
does not come, and one that computes it itself. What a test kills it starts again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from engine_process import Models
from prompts import ANSWER_TOKENS, decode_params, new_prompt, new_transfer_id, prefill_params
from servers import Server, Servers
from support.figures import Figure
from vllm_servers import CONNECTOR, MODEL_NAME, Cluster

START_TIMEOUT = 420.0
UNKNOWN_TIMEOUT = 4.0
HOLD_TIMEOUT = 12.0
MAX_RUNNING = 8  # requests, as the servers are started
SLACK = 5.0  # for a busy machine, on top of what is promised
PATIENCE = 90.0
LONG = 1500  # tokens; several chunks of prefill

pytestmark = pytest.mark.timeout(2 * START_TIMEOUT)


@dataclass
class Deployment:
    """The servers, and how to ask them."""

    servers: Servers
    cluster: Cluster
    prefill: Server
    decode: Server
    lenient: Server
    engine_id: str = ""

    def wait_ready(self) -> None:
        """Until all servers answer."""
        self.servers.wait_ready(START_TIMEOUT, lambda _: None)
        bootstrap = f"http://127.0.0.1:{self.cluster.bootstrap_port(self.prefill)}"
        with urllib.request.urlopen(f"{bootstrap}/query", timeout=30) as reply:
            engine_id = json.load(reply)["0"]["engine_id"]
        assert self.engine_id in ("", engine_id), "routers read the engine id only once"
        self.engine_id = engine_id

    def legs(self, decode: Server, transfer: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a router adds to the request for the prefill and for the decode server."""
        address = {
            "remote_bootstrap_addr": f"http://127.0.0.1:{self.cluster.bootstrap_port(self.prefill)}",
            "remote_engine_id": self.engine_id,
        }
        return (
            {"kv_transfer_params": prefill_params(transfer), "max_tokens": 1},
            {"kv_transfer_params": decode_params(address, transfer)},
        )

    def expected(self, prompt: list[int]) -> str:
        """The answer without disaggregation."""
        return ask(self.prefill, prompt)


@pytest.fixture(scope="module")
def deployment(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        with Servers(tmp_path_factory.mktemp("logs")) as servers:
            options = {"unknown_timeout": UNKNOWN_TIMEOUT, "hold_timeout": HOLD_TIMEOUT}
            cluster = Cluster(servers, models.path("llama"), options)
            made = Deployment(
                servers,
                cluster,
                cluster.prefill(),
                cluster.decode(),
                cluster.decode("lenient", CONNECTOR | {"kv_load_failure_policy": "recompute"}),
            )
            made.wait_ready()
            yield made
            servers.check()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


@pytest.fixture(autouse=True)
def nothing_is_left(deployment: Deployment) -> Iterator[None]:
    """After each test: no page in use, and the servers still work together."""
    yield
    for server in (deployment.prefill, deployment.decode, deployment.lenient):
        until(lambda server=server: usage(server) == 0.0, f"{server.name} gives its pages back")
    with ThreadPoolExecutor(2) as threads:
        prompt = new_prompt(300)
        legs = both_legs(threads, deployment, deployment.decode, prompt)
        assert legs[1].result() == deployment.expected(prompt)


def test_a_prefill_that_never_comes_and_one_that_comes_late(
    deployment: Deployment, pool: ThreadPoolExecutor, figure: Figure
) -> None:
    """P is full for longer than an unknown request is waited for; a known one waits longer."""
    late, never = new_prompt(LONG), new_prompt(LONG)
    expected = deployment.expected(late)
    busy = fill_up(deployment.prefill)
    begun = time.monotonic()
    _, arrives = both_legs(pool, deployment, deployment.decode, late)
    _, missing = deployment.legs(deployment.decode, new_transfer_id())
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(deployment.decode, never, **missing)
    failed_after = time.monotonic() - begun
    assert error.value.code == 500
    while time.monotonic() < begun + UNKNOWN_TIMEOUT + 1:
        assert not arrives.done()
        time.sleep(0.1)
    still_full = running(deployment.prefill) == MAX_RUNNING
    for connection in busy:
        connection.close()
    assert arrives.result() == expected
    waited = time.monotonic() - begun
    assert failed_after < UNKNOWN_TIMEOUT + SLACK
    if still_full:  # else P ran the late one while the unknown one was still waited for
        assert waited > UNKNOWN_TIMEOUT
    figure(
        f"a prefill that never comes fails at unknown_timeout (here {UNKNOWN_TIMEOUT:g} s)",
        f"{failed_after:.1f} s",
    )
    figure("one that is announced and waits for its turn is waited for", f"{waited:.1f} s")


def test_clients_that_go_away_at_any_moment(
    deployment: Deployment, pool: ThreadPoolExecutor, figure: Figure
) -> None:
    """200 times, of either leg or of both; the other leg ends, and no page stays in use."""
    chance = random.Random(3)

    def once(kind: str, prompt: list[int], moment: float) -> str:
        legs = deployment.legs(deployment.decode, new_transfer_id())
        servers = (deployment.prefill, deployment.decode)
        connections = [
            start(server, prompt, **leg) for server, leg in zip(servers, legs, strict=True)
        ]
        time.sleep(moment)
        gone = {"prefill": [0], "decode": [1], "both": [0, 1]}[kind]
        for index in gone:
            connections[index].close()
        for index in {0, 1} - set(gone):
            answer = connections[index].getresponse()
            answer.read()
            connections[index].close()
            return f"{('prefill', 'decode')[index]} answered {answer.status}"
        return "nobody asked"

    kinds = [chance.choice(["prefill", "decode", "both"]) for _ in range(200)]
    ended = [
        pool.submit(once, kind, new_prompt(chance.randint(200, LONG)), chance.uniform(0, 0.5))
        for kind in kinds
    ]
    outcomes = Counter(one.result() for one in ended)
    assert not set(outcomes) - {
        "nobody asked",
        "prefill answered 200",
        "decode answered 200",
        "decode answered 500",
    }
    gone = time.monotonic()
    for server in (deployment.prefill, deployment.decode):
        until(lambda server=server: usage(server) == 0.0, f"{server.name} gives its pages back")
    figure("clients that went away: of P's leg, of D's leg, of both", _three(Counter(kinds)))
    figure("pages in use afterwards at P and D", "0, 0")
    figure(
        f"after how long (P keeps what nobody fetches for hold_timeout, here {HOLD_TIMEOUT:g} s)",
        f"{time.monotonic() - gone:.1f} s",
    )


def _three(kinds: Counter[str]) -> str:
    return f"{kinds['prefill']}, {kinds['decode']}, {kinds['both']}"


def test_a_router_that_dies_between_the_legs(
    deployment: Deployment, pool: ThreadPoolExecutor, figure: Figure
) -> None:
    """P has answered, D is never asked: P gives the pages back at `hold_timeout`."""
    router = deployment.cluster.router([deployment.prefill], [deployment.decode])
    deployment.wait_ready()
    prompt = new_prompt(LONG)
    before = gauge(deployment.prefill, "vllm:request_success_total")
    asked = pool.submit(ask, router, prompt)
    until(lambda: usage(deployment.prefill) > 0, "P works")
    router.signal(signal.SIGSTOP)
    until(
        lambda: gauge(deployment.prefill, "vllm:request_success_total") > before, "P has answered"
    )
    answered = time.monotonic()
    deployment.servers.kill(router)
    with pytest.raises((OSError, http.client.HTTPException)):
        asked.result()
    assert usage(deployment.prefill) > 0
    until(lambda: usage(deployment.prefill) == 0.0, "P gives its pages back")
    seconds = time.monotonic() - answered
    assert seconds < HOLD_TIMEOUT + SLACK
    figure(
        f"router killed between the legs: P's pages free at hold_timeout (here {HOLD_TIMEOUT:g} s)",
        f"{seconds:.1f} s",
    )


def test_a_prefill_server_that_is_killed_and_started_again(
    deployment: Deployment, pool: ThreadPoolExecutor, figure: Figure
) -> None:
    proxy = deployment.cluster.proxy([deployment.prefill], [deployment.decode])
    deployment.wait_ready()
    prompts = [new_prompt(LONG) for _ in range(12)]
    strict = [both_legs(pool, deployment, deployment.decode, prompt)[1] for prompt in prompts[:6]]
    lenient = [both_legs(pool, deployment, deployment.lenient, prompt)[1] for prompt in prompts[6:]]
    until(lambda: usage(deployment.decode) > 0 and usage(deployment.lenient) > 0, "both fetch")
    killed = time.monotonic()
    deployment.servers.kill(deployment.prefill)
    outcomes = [outcome(one) for one in strict]
    seconds = time.monotonic() - killed
    recomputed = [one.result() for one in lenient]
    own = new_prompt(100)
    assert ask(deployment.decode, own) == ask(deployment.lenient, own)

    url = urlsplit(deployment.prefill.url)
    deployment.prefill = deployment.cluster.prefill("prefill again", url.port)
    deployment.wait_ready()
    ready = time.monotonic()
    prompt = new_prompt(300)
    while (answer := outcome(pool.submit(ask, proxy, prompt))) in (500, 502):
        assert time.monotonic() < ready + 5 + SLACK
        time.sleep(0.05)
    back = time.monotonic() - ready
    assert answer == deployment.expected(prompt)
    # What was asked before: an error or the right answer; never another answer.
    expected = [deployment.expected(prompt) for prompt in prompts]
    assert all(got in (500, right) for got, right in zip(outcomes, expected[:6], strict=True))
    assert 500 in outcomes, "P was killed too late"
    assert recomputed == expected[6:]
    deployment.servers.kill(proxy)
    figure("P killed in mid-transfer: requests that D failed, of six", str(outcomes.count(500)))
    figure("the last of them failed within 2 s", f"{seconds:.1f} s")
    figure("with kv_load_failure_policy=recompute: right answers, of six", "6")
    figure("P started again: good answer within 5 s of its being ready", f"{back:.1f} s")


def test_a_decode_server_that_is_killed(
    deployment: Deployment, pool: ThreadPoolExecutor, figure: Figure
) -> None:
    victim = deployment.lenient
    # P gets to them when D waits for all of them, and not before.
    busy = fill_up(deployment.prefill)
    legs = [both_legs(pool, deployment, victim, new_prompt(LONG)) for _ in range(6)]
    until(lambda: gauge(victim, "vllm:num_requests_waiting") == len(legs), "D has all requests")
    time.sleep(1)
    for connection in busy:
        connection.close()
    until(lambda: 0 < running(deployment.prefill) <= len(legs), "P works on them")
    killed = time.monotonic()
    deployment.servers.kill(victim)
    # Whoever asks P itself still gets an answer, which needs pages until it is there.
    until(lambda: all(leg.done() for pair in legs for leg in pair), "P has answered")
    answered = time.monotonic()
    until(lambda: usage(deployment.prefill) == 0.0, "P gives its pages back")
    seconds = time.monotonic() - answered
    deployment.lenient = deployment.decode
    assert seconds < 5 + SLACK < HOLD_TIMEOUT
    figure(
        "D killed in mid-transfer: P's pages free within 5 s of its last answer", f"{seconds:.1f} s"
    )
    figure("its last answer after D was killed", f"{answered - killed:.1f} s")


def until(happened: Callable[[], bool], what: str) -> None:
    """Waits until it has happened."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"it never happened that {what}"
        time.sleep(0.02)


def start(
    server: Server, prompt: list[int], max_tokens: int = ANSWER_TOKENS, **options: Any
) -> http.client.HTTPConnection:
    """Sends a request and does not wait for its answer."""
    body = {
        "model": MODEL_NAME,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **options,
    }
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    return connection


def ask(server: Server, prompt: list[int], **options: Any) -> str:
    """A greedy completion.

    Raises:
        HTTPError: the server answers with an error.
    """
    with contextlib.closing(start(server, prompt, **options)) as connection:
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise urllib.error.HTTPError(
                server.url, answer.status, content.decode(), answer.headers, None
            )
    text: str = json.loads(content)["choices"][0]["text"]
    return text


def outcome(answer: Future[str]) -> str | int:
    """The text, or the status of the error."""
    try:
        return answer.result()
    except urllib.error.HTTPError as error:
        return error.code


def both_legs(
    pool: ThreadPoolExecutor, deployment: Deployment, decode: Server, prompt: list[int]
) -> tuple[Future[str], Future[str]]:
    """Asks both servers at once."""
    first, second = deployment.legs(decode, new_transfer_id())
    return (
        pool.submit(ask, deployment.prefill, prompt, **first),
        pool.submit(ask, decode, prompt, **second),
    )


def fill_up(server: Server) -> list[http.client.HTTPConnection]:
    """Requests that keep a server busy until they are closed."""
    connections = [start(server, new_prompt(20), 1900) for _ in range(MAX_RUNNING)]
    until(lambda: running(server) == MAX_RUNNING, f"{server.name} is full")
    return connections


def running(server: Server) -> int:
    """Requests that have pages and are computed."""
    return int(gauge(server, "vllm:num_requests_running"))


def usage(server: Server) -> float:
    """Share of the KV cache that is in use."""
    return gauge(server, "vllm:kv_cache_usage_perc")


def gauge(server: Server, name: str) -> float:
    """The value of one of vLLM's metrics."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{")]
    assert found, f"{server.name} has no metric {name}"
    return sum(float(line.rpartition(" ")[2]) for line in found)
