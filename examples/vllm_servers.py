# SPDX-License-Identifier: Apache-2.0
"""The command lines of a vLLM prefill/decode pair, of a plain server, and of what stands in front.

Everything listens on the loopback interface. The options that only make a tiny model start fast and
answer the same every time (float32, eager mode, a small cache) are not needed in production; the
``--kv-transfer-config`` is all that makes a server disaggregated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servers import MODEL_NAME, Server, Servers, free_port

HOST = "127.0.0.1"
MAX_MODEL_LEN = 2048
# Prompts longer than this are prefilled in chunks, and their KV is sent chunk by chunk.
CHUNK_TOKENS = 256
KV_CACHE_BYTES = 64 << 20
# The name under which the installed package makes itself known to vLLM.
CONNECTOR = {"kv_connector": "mooncake_connector"}

ENVIRONMENT = {
    # `python -m` would put the current folder first on the path. In a checkout that is the source
    # of the package, without its extension modules.
    "PYTHONSAFEPATH": "1",
    "VLLM_HOST_IP": HOST,
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # One thread for each server: three of them share the machine.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@dataclass
class Cluster:
    """Starts the parts of a prefill/decode deployment of one model, and knows where they answer."""

    servers: Servers
    model: Path
    engine_options: Mapping[str, object] = field(default_factory=dict)
    _bootstrap_ports: dict[str, int] = field(default_factory=dict)

    def plain(self) -> Server:
        """A server that prefills and decodes by itself: what the answers are compared with."""
        return self._vllm("plain", None)

    def prefill(
        self, name: str = "prefill", port: int | None = None, options: Sequence[str] = ()
    ) -> Server:
        """A producer of KV. Its bootstrap server tells routers and decode servers who it is.

        One that takes the port of another takes its bootstrap port, too.
        """
        port = port or free_port()
        bootstrap_port = self._bootstrap_ports.setdefault(f"http://{HOST}:{port}", free_port())
        extra = {"bootstrap_port": bootstrap_port}
        return self._vllm(name, "kv_producer", extra, port=port, options=options)

    def bootstrap_port(self, prefill: Server) -> int:
        """Where its bootstrap server answers."""
        return self._bootstrap_ports[prefill.url]

    def decode(
        self,
        name: str = "decode",
        connector: Mapping[str, str] = CONNECTOR,
        options: Sequence[str] = (),
    ) -> Server:
        """A consumer of KV; another connector can be tried in place of ours."""
        return self._vllm(name, "kv_consumer", connector=connector, options=options)

    def router(self, prefill: Sequence[Server], decode: Sequence[Server]) -> Server:
        """vllm-router: asks a decode server once a prefill server has answered."""
        port = free_port()
        command = [
            *(str(Path(sys.executable).with_name("vllm-router")), "--host", HOST),
            *("--port", str(port), "--policy", "round_robin"),
            *("--vllm-pd-disaggregation", "--kv-connector", "mooncake"),
            *self._behind(prefill, decode),
            *("--prometheus-host", HOST, "--prometheus-port", str(free_port())),
        ]
        return self.servers.start("router", command, f"http://{HOST}:{port}", ENVIRONMENT)

    def proxy(
        self, prefill: Sequence[Server], decode: Sequence[Server], name: str = "proxy"
    ) -> Server:
        """examples/pd_proxy.py: asks one of each at once, so that KV streams."""
        port = free_port()
        command = [
            *(sys.executable, str(Path(__file__).with_name("pd_proxy.py"))),
            *("--host", HOST, "--port", str(port)),
            *self._behind(prefill, decode),
        ]
        return self.servers.start(name, command, f"http://{HOST}:{port}", ENVIRONMENT)

    def _behind(self, prefill: Sequence[Server], decode: Sequence[Server]) -> list[str]:
        """The servers as the router and the proxy want to be told of them."""
        options = []
        for server in prefill:
            options += ["--prefill", server.url, str(self.bootstrap_port(server))]
        for server in decode:
            options += ["--decode", server.url]
        return options

    def _vllm(
        self,
        name: str,
        role: str | None,
        extra: Mapping[str, object] | None = None,
        connector: Mapping[str, str] = CONNECTOR,
        *,
        port: int | None = None,
        options: Sequence[str] = (),
    ) -> Server:
        port = port or free_port()
        environment = dict(ENVIRONMENT)
        if self.engine_options.get("log_level") == "debug":
            # vLLM's log handler drops our lines otherwise.
            environment["VLLM_LOGGING_LEVEL"] = "DEBUG"
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.model), "--served-model-name", MODEL_NAME),
            *("--host", HOST, "--port", str(port)),
            *("--dtype", "float32", "--enforce-eager", "--max-model-len", str(MAX_MODEL_LEN)),
            *("--max-num-seqs", "8", "--max-num-batched-tokens", str(CHUNK_TOKENS)),
            *("--kv-cache-memory-bytes", str(KV_CACHE_BYTES)),
            *options,
        ]
        if role is not None:
            transfer = {
                **connector,
                "kv_role": role,
                "kv_connector_extra_config": {**self.engine_options, **(extra or {})},
            }
            command += ["--kv-transfer-config", json.dumps(transfer)]
        return self.servers.start(name, command, f"http://{HOST}:{port}", environment)
