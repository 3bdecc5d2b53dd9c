# SPDX-License-Identifier: Apache-2.0
"""The command lines of an SGLang prefill/decode pair, of a plain server and of the router.

Everything listens on the loopback interface. The options that make a tiny model run without a GPU
are not needed in production; the ``--disaggregation-*`` ones are all that makes a server
disaggregated.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servers import MODEL_NAME, Server, Servers, free_port

HOST = "127.0.0.1"
# Prompts longer than this are prefilled in chunks, and their KV is sent chunk by chunk.
CHUNK_TOKENS = 256
POOL_TOKENS = 16384
# The name under which the installed package makes itself known to SGLang.
BACKEND = "mooncake_connector"

ENVIRONMENT = {
    # `python -m` would put the current folder first on the path. In a checkout that is the source
    # of the package, without its extension modules.
    "PYTHONSAFEPATH": "1",
    "SGLANG_HOST_IP": HOST,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # No GPU, and one thread for each server: three of them share the machine.
    "SGLANG_USE_CPU_ENGINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
CPU_OPTIONS = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--grammar-backend", "none", "--disable-overlap-schedule"),
    *("--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled"),
    *("--skip-server-warmup", "--dtype", "float32"),
)


@dataclass
class SGLangCluster:
    """Starts the parts of a prefill/decode deployment of one model, and knows where they answer."""

    servers: Servers
    model: Path
    page_size: int = 1
    backend: str = BACKEND
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prefill_port: int = field(default_factory=free_port)
    bootstrap_port: int = field(default_factory=free_port)

    def plain(self) -> Server:
        """A server that prefills and decodes by itself: what the answers are compared with."""
        return self._sglang("plain", free_port(), ())

    def prefill(self) -> Server:
        """The server that computes prompts' KV; its bootstrap server tells where its ranks are."""
        return self._sglang("prefill", self.prefill_port, self._disaggregation("prefill"))

    def decode(
        self, *options: str, name: str = "decode", environment: Mapping[str, str] | None = None
    ) -> Server:
        """The server that generates; there may be several."""
        # The default keeps retracted requests in pinned memory, which needs a GPU.
        backup = ("--disaggregation-decode-retraction-backup", "cpu_tensor")
        mode = self._disaggregation("decode")
        return self._sglang(name, free_port(), (*mode, *backup, *options), environment)

    def router(self, prefill: Server, decode: Server, name: str = "router") -> Server:
        """sglang-router: sends each request to both, under one room number."""
        port = free_port()
        command = [
            *(sys.executable, "-m", "sglang_router.launch_router", "--pd-disaggregation"),
            *("--prefill", prefill.url, str(self.bootstrap_port), "--decode", decode.url),
            *("--host", HOST, "--port", str(port), "--policy", "round_robin"),
            *("--prometheus-host", HOST, "--prometheus-port", str(free_port())),
        ]
        # It is healthy before it knows a server, and ready afterwards.
        url = f"http://{HOST}:{port}"
        return self.servers.start(name, command, url, ENVIRONMENT, "/readiness")

    def _disaggregation(self, mode: str) -> tuple[str, ...]:
        return (
            *("--disaggregation-mode", mode),
            *("--disaggregation-transfer-backend", self.backend),
            *("--disaggregation-bootstrap-port", str(self.bootstrap_port)),
        )

    def _sglang(
        self,
        name: str,
        port: int,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> Server:
        command = [
            *(sys.executable, "-m", "sglang.launch_server", "--model-path", str(self.model)),
            *("--served-model-name", MODEL_NAME),
            *("--host", HOST, "--port", str(port), "--page-size", str(self.page_size)),
            *("--max-total-tokens", str(POOL_TOKENS), "--max-running-requests", "16"),
            *("--chunked-prefill-size", str(CHUNK_TOKENS)),
            *CPU_OPTIONS,
            *self.options,
            *options,
        ]
        told = {**ENVIRONMENT, **self.environment, **(environment or {})}
        return self.servers.start(name, command, f"http://{HOST}:{port}", told)
