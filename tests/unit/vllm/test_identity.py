# SPDX-License-Identifier: Apache-2.0
"""Tags depend on all that KV depends on; ids and fingerprints are equal where they must be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mooncake_connector.vllm.identity import mint_transfer_id, model_fingerprint, tag_of


def request(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "prompt_token_ids": [1, 2, 3],
        "lora_request": None,
        "cache_salt": None,
        "mm_features": [],
    }
    return SimpleNamespace(**(values | changes))


def test_equal_requests_have_equal_tags() -> None:
    assert tag_of("id", request()) == tag_of("id", request())


@pytest.mark.parametrize(
    "other",
    [
        request(prompt_token_ids=[1, 2, 4]),
        request(prompt_token_ids=[1, 2]),
        request(lora_request=SimpleNamespace(lora_name="poet")),
        request(cache_salt="poet"),
        request(mm_features=[SimpleNamespace(identifier="poet")]),
    ],
)
def test_whatever_kv_depends_on_changes_the_tag(other: Any) -> None:
    assert tag_of("id", request()) != tag_of("id", other)


def test_fields_do_not_run_into_each_other() -> None:
    tags = {
        tag_of("id", request(lora_request=SimpleNamespace(lora_name="poet"))),
        tag_of("id", request(cache_salt="poet")),
        tag_of("idpoet", request()),
        tag_of("id", request(mm_features=[SimpleNamespace(identifier="poet")])),
    }
    assert len(tags) == 4


def test_a_tag_fits_the_engine() -> None:
    assert len(tag_of("x" * 10_000, request(prompt_token_ids=list(range(5000))))) == 32


def test_all_children_of_a_client_request_share_a_minted_id() -> None:
    family = {
        "cmpl-5f2e-0-0123abcd",
        "cmpl-5f2e-1-4567cdef",
        "0_cmpl-5f2e-0-0123abcd",
        "1_cmpl-5f2e-0-0123abcd",
    }
    assert len({mint_transfer_id(member) for member in family}) == 1


def test_other_requests_get_other_ids_that_do_not_show_the_request() -> None:
    ids = {mint_transfer_id(name) for name in ("cmpl-a-0-01234567", "cmpl-b-0-01234567", "chat-a")}
    assert len(ids) == 3
    assert not any("cmpl" in one for one in ids)


def model(path: str = "/models/tiny", **config: Any) -> Any:
    fields = {"hidden_size": 128, "_name_or_path": path} | config
    return SimpleNamespace(
        model=path, dtype="torch.bfloat16", hf_config=SimpleNamespace(to_dict=lambda: fields)
    )


def test_copies_of_a_model_have_equal_fingerprints() -> None:
    here, there = model("/models/tiny"), model("/data/tiny", transformers_version="5.0")
    assert model_fingerprint(here, None) == model_fingerprint(there, None)


def test_other_models_have_other_fingerprints() -> None:
    prints = {
        model_fingerprint(model(), None),
        model_fingerprint(model(hidden_size=256), None),
        model_fingerprint(model("/models/tiny-instruct"), None),
        model_fingerprint(model(), "my-model"),
    }
    assert len(prints) == 4
