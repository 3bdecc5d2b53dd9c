# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the adapter's tests: prefill and decode ranks in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

# Must be set before SGLang is imported.
os.environ.update(
    {
        "SGLANG_USE_CPU_ENGINE": "1",
        "SGLANG_HOST_IP": "127.0.0.1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)

import pytest
from support.sglang_worker import HEADS, LAYERS, Setting, Worker
from transformers import DeepseekV2Config, LlamaConfig

from mooncake_connector.sglang.bootstrap import BootstrapServer

Start = Callable[..., Worker]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of models' configurations, by kind; nothing here needs their weights."""
    folder = tmp_path_factory.mktemp("models")
    shape = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_size": 64}
    kinds = {
        "llama": LlamaConfig(
            **shape, num_key_value_heads=HEADS, architectures=["LlamaForCausalLM"]
        ),
        "mla": DeepseekV2Config(**shape, architectures=["DeepseekV2ForCausalLM"]),
    }
    for kind, config in kinds.items():
        config.save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in kinds}


@pytest.fixture
def bootstrap() -> Iterator[BootstrapServer]:
    server = BootstrapServer("127.0.0.1", 0)
    yield server
    server.close()


@pytest.fixture
def start(bootstrap: BootstrapServer, models: dict[str, str]) -> Iterator[Start]:
    """Starts ranks, and stops them when the test is over."""
    workers: list[Worker] = []

    def begin(
        mode: str, change: Callable[[Worker], None] | None = None, **setting: object
    ) -> Worker:
        kind = "mla" if setting.get("latent") else "llama"
        worker = Worker(Setting(models[kind], **setting), mode, bootstrap.port)  # type: ignore[arg-type]
        if change is not None:
            change(worker)
        worker.start()
        workers.append(worker)
        return worker

    yield begin
    for worker in workers:
        worker.close()
