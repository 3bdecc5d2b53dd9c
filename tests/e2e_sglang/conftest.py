# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real SGLang servers: one set of servers for each page size."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

# The helper modules beside this file, and the examples, which are programs and not a package.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "examples")]

import pytest  # noqa: E402
from client import Client, new_prompt  # noqa: E402
from deployment import START_TIMEOUT, Deployment  # noqa: E402
from make_tiny_model import make  # noqa: E402
from servers import Server, Servers  # noqa: E402
from sglang_servers import SGLangCluster  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starting servers counts as part of the first test that needs them."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(4 * START_TIMEOUT))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers depend on every token of the prompt."""
    folder = tmp_path_factory.mktemp("model") / "llama"
    make(folder)
    return folder


@pytest.fixture(scope="session")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that prefills and decodes by itself: what answers are compared with."""
    with Servers(tmp_path_factory.mktemp("plain")) as servers:
        server: Server = SGLangCluster(servers, model).plain()
        servers.wait_ready(START_TIMEOUT, lambda _: None)
        client = Client(server.url)
        client.complete(new_prompt(8))
        yield client
        servers.check()


@pytest.fixture(scope="module")
def deployment(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The servers that the module's `SETTING` asks for."""
    with Deployment(model, tmp_path_factory.mktemp("servers"), request.module.SETTING) as servers:
        yield servers
