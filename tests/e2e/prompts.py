# SPDX-License-Identifier: Apache-2.0
"""Prompts, and the two legs of a request."""

from __future__ import annotations

import itertools
import random
import uuid
from typing import Any

from engine_process import Answer, EngineProcess

ANSWER_TOKENS = 16
_seeds = itertools.count()


def new_prompt(tokens: int) -> list[int]:
    """A prompt that no engine has seen, so that nothing of it is cached."""
    rng = random.Random(next(_seeds))
    return [rng.randrange(3, 1024) for _ in range(tokens)]


def prefill_params(transfer_id: str | None) -> dict[str, Any]:
    """What a router tells the prefill server; without an id it lets the server choose one."""
    params: dict[str, Any] = {"do_remote_decode": True, "do_remote_prefill": False}
    return params if transfer_id is None else {**params, "transfer_id": transfer_id}


def decode_params(address: dict[str, Any], transfer_id: str) -> dict[str, Any]:
    """What a router tells the decode server when it asks both at once."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "transfer_id": transfer_id,
        **address,
    }


def new_transfer_id() -> str:
    """As routers make them."""
    return str(uuid.uuid4())


def sequential(
    prefill: EngineProcess, decode: EngineProcess, prompt: list[int], **options: Any
) -> Answer:
    """As a router that relays the prefill server's parameters."""
    leg = prefill.submit(prompt, kv=prefill_params(new_transfer_id()))
    relayed = prefill.answer(leg).kv_transfer_params
    assert relayed is not None
    options.setdefault("max_tokens", ANSWER_TOKENS)
    return decode.answer(decode.submit(prompt, kv=relayed, **options))
