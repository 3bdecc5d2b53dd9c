# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests inside vLLM: tiny models, and engines of this process's forks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Must be set before vLLM is imported, and is inherited by the forks and the servers.
os.environ.update(
    {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
# The helper modules beside this file, and the examples, which are programs and not a package.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "examples")]

import pytest  # noqa: E402
from engine_process import Deployment, Models  # noqa: E402


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Tiny models, each made once."""
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def deployment(models: Models) -> Iterator[Deployment]:
    """Starts engines and stops them all when the module's tests are done."""
    with Deployment(models) as engines:
        yield engines
