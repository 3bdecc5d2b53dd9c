# SPDX-License-Identifier: Apache-2.0
"""Real server processes, vllm-router and the concurrent proxy in front: answers over HTTP."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_process import Models
from prompts import ANSWER_TOKENS, new_prompt
from servers import Server, Servers
from vllm_servers import MODEL_NAME, Cluster

START_TIMEOUT = 900.0
LENGTHS = (1, 5, 33, 300, 777, 1500)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Pair:
    """Two prefill and two decode servers with one key, and what stands before them.

    One of each kind is tensor-parallel. (Servers without a key: in the other tests, and in the
    demo.)
    """

    prefill: list[Server]
    decode: list[Server]
    router: Server
    proxy: Server
    liars_proxy: Server

    @property
    def plain(self) -> Server:
        """One that prefills and decodes by itself, as each does if nothing else is asked for."""
        return self.prefill[0]


@pytest.fixture(scope="module")
def pair(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        environment.setenv("PYTHONPATH", str(HERE), prepend=":")
        key_file = tmp_path_factory.mktemp("key") / "kv.key"
        key_file.touch(mode=0o600)
        key_file.write_text(secrets.token_hex(32))
        with Servers(tmp_path_factory.mktemp("logs")) as servers:
            options = {"log_level": "debug", "key_file": str(key_file)}
            cluster = Cluster(servers, models.path("llama"), options)
            # The second one of each kind has two workers with half of the heads each.
            parallel = ("--tensor-parallel-size", "2")
            prefill = [cluster.prefill("prefill-1"), cluster.prefill("prefill-2", options=parallel)]
            decode = [cluster.decode("decode-1"), cluster.decode("decode-2", options=parallel)]
            lying = {
                "kv_connector": "LyingConnector",
                "kv_connector_module_path": "lying_connector",
            }
            liar = cluster.decode("liar", lying)
            servers.wait_ready(START_TIMEOUT, lambda _: None)
            router, proxy = cluster.router(prefill, decode), cluster.proxy(prefill, decode)
            liars_proxy = cluster.proxy(prefill, [liar], "liars-proxy")
            servers.wait_ready(START_TIMEOUT, lambda _: None)
            yield Pair(prefill, decode, router, proxy, liars_proxy)
            servers.check()


pytestmark = pytest.mark.timeout(2 * START_TIMEOUT)


@pytest.mark.parametrize("front", ["router", "proxy"])
def test_answers(pair: Pair, front: str) -> None:
    for length in LENGTHS:
        prompt = new_prompt(length)
        assert complete(getattr(pair, front), prompt) == complete(pair.plain, prompt), length


@pytest.mark.parametrize("front", ["router", "proxy"])
def test_prompt_lists_and_samples(pair: Pair, front: str) -> None:
    """Everything of one client request goes to both servers under one transfer id."""
    twice = new_prompt(150)
    prompts = [twice, new_prompt(90), twice]
    options = {"n": 2, "temperature": 1.0, "top_k": 1}
    answers = complete(getattr(pair, front), prompts, **options)
    assert len(answers) == 6
    assert answers == complete(pair.plain, prompts, **options)


def test_chat_and_streamed_answers(pair: Pair) -> None:
    body = {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": "tell me about pages " * 30}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
    }
    expected = post(pair.plain, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    answer = post(pair.proxy, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert answer == expected
    streamed = "".join(
        event["choices"][0]["delta"].get("content") or ""
        for event in stream(pair.proxy, "/v1/chat/completions", body)
        if event["choices"]
    )
    assert streamed == expected


def test_a_connector_that_moves_nothing_is_noticed(pair: Pair) -> None:
    """The negative control: without it, equal answers would prove nothing."""
    for length in (33, 300, 777):
        prompt = new_prompt(length)
        assert complete(pair.liars_proxy, prompt) != complete(pair.plain, prompt), length


@pytest.mark.parametrize("front", ["router", "proxy"])
def test_all_servers_take_part(pair: Pair, front: str) -> None:
    """Any prefill server's KV reaches any decode server; each decode server fetches its share."""
    before = [metric(server, "bytes_transferred_count") for server in pair.decode]
    prefilled = [prompts(server) for server in pair.prefill]
    asked = [new_prompt(100) for _ in range(8)]
    answers = [complete(getattr(pair, front), prompt) for prompt in asked]
    for server, count in zip(pair.decode, before, strict=True):
        assert metric(server, "bytes_transferred_count") > count, server.name
    for server, count in zip(pair.prefill, prefilled, strict=True):
        assert prompts(server) > count, server.name
    assert answers == [complete(pair.plain, prompt) for prompt in asked]


def test_metrics(pair: Pair) -> None:
    """Transfers are counted where they were waited for."""

    def total(servers: list[Server], name: str) -> float:
        return sum(metric(server, name) for server in servers)

    before = total(pair.decode, "bytes_transferred_sum")
    complete(pair.router, new_prompt(300))
    shipped = total(pair.decode, "bytes_transferred_sum") - before
    assert shipped >= 300 * 4 * 2 * 2 * 32 * 4
    assert total(pair.decode, "xfer_time_seconds_count") > 0
    assert total(pair.decode, "num_failed_transfers_total") == 0
    assert total(pair.prefill, "num_kv_expired_reqs_total") == 0


def test_an_error_at_decode_reaches_the_client(pair: Pair) -> None:
    """Without a prefill, the decode server says so, and lives on."""
    params = {
        "do_remote_prefill": True,
        "transfer_id": "unknown",
        "remote_bootstrap_addr": "http://127.0.0.1:9",
    }
    with pytest.raises(urllib.error.HTTPError) as error:
        complete(pair.decode[0], new_prompt(100), kv_transfer_params=params)
    assert error.value.code == 500
    prompt = new_prompt(100)
    assert complete(pair.router, prompt) == complete(pair.plain, prompt)


def complete(server: Server, prompt: list[Any], **options: Any) -> list[str]:
    """Greedy completions of one or several tokenised prompts."""
    body = {
        "model": MODEL_NAME,
        "prompt": prompt,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        **options,
    }
    choices = post(server, "/v1/completions", body)["choices"]
    return [choice["text"] for choice in sorted(choices, key=lambda choice: choice["index"])]


def post(server: Server, path: str, body: dict[str, Any]) -> Any:
    with urllib.request.urlopen(request(server, path, body), timeout=90) as response:
        return json.load(response)


def stream(server: Server, path: str, body: dict[str, Any]) -> Iterator[Any]:
    """The events of a streamed answer."""
    with urllib.request.urlopen(
        request(server, path, {**body, "stream": True}), timeout=90
    ) as response:
        for line in response:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield json.loads(line.removeprefix(b"data: "))


def request(server: Server, path: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


def prompts(server: Server) -> float:
    """How many requests a server has begun with."""
    return metric(server, "request_prompt_tokens_count", "vllm:")


def metric(server: Server, name: str, prefix: str = "vllm:mooncake_connector_") -> float:
    """The value of a metric; ours, if nothing else is said."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{prefix}{name}{{")
    )
