# SPDX-License-Identifier: Apache-2.0
"""What a client that guesses cannot get: another request's KV, or a server to talk to strangers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mooncake_connector.vllm.identity import mint_transfer_id, tag_of


def request(**changes: Any) -> Any:
    fields = {
        "prompt_token_ids": [1, 2, 3],
        "lora_request": None,
        "cache_salt": None,
        "mm_features": [],
    }
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
    "other",
    [
        {"prompt_token_ids": [1, 2, 4]},
        {"prompt_token_ids": [1, 2]},
        {"prompt_token_ids": [1, 2, 3, 0]},
        {"cache_salt": "mine"},
        {"lora_request": SimpleNamespace(lora_name="mine")},
        {"mm_features": [SimpleNamespace(identifier="image")]},
    ],
)
def test_a_known_transfer_id_gives_nothing_without_the_prompt(other: dict[str, Any]) -> None:
    assert tag_of("known", request()) == tag_of("known", request())
    assert tag_of("known", request(**other)) != tag_of("known", request())


def test_what_depends_on_one_thing_cannot_be_passed_off_as_another() -> None:
    as_salt = tag_of("known", request(cache_salt="x"))
    as_lora = tag_of("known", request(lora_request=SimpleNamespace(lora_name="x")))
    as_image = tag_of("known", request(mm_features=[SimpleNamespace(identifier="x")]))
    in_the_id = tag_of("knownx", request())
    assert len({as_salt, as_lora, as_image, in_the_id}) == 4


def test_minted_ids_do_not_follow_from_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    here = mint_transfer_id("cmpl-1-0-01234567")
    assert here == mint_transfer_id("cmpl-1-1-89abcdef"), "prompts of one request share it"
    assert here != mint_transfer_id("cmpl-2-0-01234567")
    assert len(here) == 32
    monkeypatch.setattr("mooncake_connector.vllm.identity._PROCESS_SECRET", b"another process")
    assert here != mint_transfer_id("cmpl-1-0-01234567"), "it can be computed from the request's id"
