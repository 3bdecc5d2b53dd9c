# SPDX-License-Identifier: Apache-2.0
"""Asks SGLang servers and routers for greedy completions of tokenised prompts."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

ANSWER_TOKENS = 16
TIMEOUT = 300.0
_seeds = itertools.count()


class RequestFailed(Exception):
    """The server answered with an error, which is the message."""


def new_prompt(tokens: int) -> list[int]:
    """A prompt that no server has seen, so that nothing of it is cached."""
    rng = random.Random(next(_seeds))
    return [rng.randrange(3, 1024) for _ in range(tokens)]


@dataclass(frozen=True)
class Client:
    """A server or router, by its URL."""

    url: str

    def complete(self, prompt: Sequence[Any], tokens: int = ANSWER_TOKENS, **options: Any) -> Any:
        """The tokens of a greedy answer, or of several if the prompt is a list of prompts.

        Raises:
            RequestFailed: it answered with an error, or not at all.
        """
        answer = self.post("/generate", generation(prompt, tokens, **options))
        if isinstance(answer, list):
            return [one["output_ids"] for one in answer]
        return answer["output_ids"]

    def post(self, path: str, body: Any) -> Any:
        """Sends JSON; returns what comes back.

        Raises:
            RequestFailed: it answered with an error, or not at all.
        """
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise RequestFailed(f"HTTP {error.code}: {error.read().decode()[:500]}") from None
        except OSError as error:
            raise RequestFailed(str(error)) from None

    def walk_away(self, prompt: Sequence[int], tokens: int) -> None:
        """Sends a request and hangs up when the answer begins."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT)
        body = generation(prompt, tokens) | {"stream": True}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/generate", json.dumps(body), headers)
        response = connection.getresponse()
        response.read(1)
        connection.close()

    def hang_up(self, prompt: Sequence[int], tokens: int) -> None:
        """Sends a request and hangs up at once."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/generate", json.dumps(generation(prompt, tokens)), headers)
        connection.close()


def generation(prompt: Sequence[Any], tokens: int, **options: Any) -> dict[str, Any]:
    """The body of a request to ``/generate``."""
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    return {"input_ids": list(prompt), "sampling_params": sampling, **options}
