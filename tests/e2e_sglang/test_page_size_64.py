# SPDX-License-Identifier: Apache-2.0
"""Pages of 64 tokens, a prefix cache at the decode server, and servers that have a key."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest
from client import Client, RequestFailed, new_prompt
from deployment import Deployment, Setting

from mooncake_connector.bootstrap import fetch
from mooncake_connector.errors import AuthenticationFailed
from mooncake_connector.keys import Key

KEY = "5" * 64
SETTING = Setting(
    page_size=64,
    decode=("--disaggregation-decode-enable-radix-cache",),
    environment={"MOONCAKE_CONNECTOR_KEY": KEY},
)
LENGTHS = (5, 17, 64, 100, 257, 512, 1000, 1500)
_FETCHED = re.compile(r"fetched \d+ tokens, (\d+) bytes")


def test_answers_equal_the_plain_servers(deployment: Deployment, plain: Client) -> None:
    for length in LENGTHS:
        prompt = new_prompt(length)
        assert deployment.router.complete(prompt) == plain.complete(prompt), length


def test_what_decode_has_cached_is_not_fetched_again(deployment: Deployment, plain: Client) -> None:
    common = new_prompt(960)
    amounts = []
    for _ in range(2):
        prompt = common + new_prompt(70)
        assert deployment.router.complete(prompt) == plain.complete(prompt)
        amounts.append(int(_FETCHED.findall(deployment.decode.log.read_text())[-1]))
    assert amounts[1] < amounts[0] / 3


def test_the_same_prompt_again(deployment: Deployment, plain: Client) -> None:
    """All of it is cached at both servers; the first token still has to come."""
    prompt = new_prompt(640)
    answers = [deployment.router.complete(prompt) for _ in range(3)]
    assert answers == [plain.complete(prompt)] * 3


def test_without_the_key_the_bootstrap_tells_nothing(deployment: Deployment) -> None:
    port = deployment.cluster.bootstrap_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        assert json.load(answer) == {"status": "ok"}
    for token in (None, "x" * 64, KEY):
        with pytest.raises(AuthenticationFailed):
            fetch("GET", "127.0.0.1", port, "/query", timeout=10, token=token)
    with pytest.raises(RequestFailed, match="HTTP 401"):
        Client(f"http://127.0.0.1:{port}").post("/register", {})
    token = Key(KEY.encode()).derive("bootstrap").hex()
    told = json.loads(fetch("GET", "127.0.0.1", port, "/query", timeout=10, token=token))
    assert list(told["engines"]) == ["0/0/0"]
