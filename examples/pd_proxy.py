# SPDX-License-Identifier: Apache-2.0
"""A proxy that sends each request to a prefill and a decode server at once.

The two meet by a transfer id that is made here, so the decode server takes KV chunk by chunk while
prefill still runs. A proxy that asks the decode server only after the prefill server has answered
works as well, but its KV can only start to move then.

    python pd_proxy.py --port 8000 \
        --prefill http://127.0.0.1:8100 8998 --decode http://127.0.0.1:8200

--prefill and --decode may be repeated; requests take turns. The number after a prefill server's URL
is its bootstrap port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web

OK = 200
BAD_REQUEST = 400
BAD_GATEWAY = 502
# Only connecting is limited: how long an answer takes is between the client and the servers.
TIMEOUT = ClientTimeout(total=None, sock_connect=10)
# What the prefill server must not do with a request: it computes KV and one token.
PREFILL_LENGTH = {"max_tokens": 1, "stream": False}
LONGER_THAN_PREFILL = ("max_completion_tokens", "min_tokens", "stream_options")


class LegFailed(Exception):
    """One of the two servers refused or lost a request."""

    def __init__(self, server: str, status: int, text: str) -> None:
        super().__init__(f"{server}: HTTP {status}: {text}")
        self.status = status


@dataclass(frozen=True)
class PrefillRank:
    """One data-parallel rank of a prefill server, and what a decode server must know of it."""

    url: str
    bootstrap: str
    rank: str
    engine_id: str


@dataclass(frozen=True)
class Pair:
    """Two servers that work on one request, and the id by which they find each other."""

    prefill: PrefillRank
    decode: str
    transfer: str

    def prefill_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The client's request, cut down to its prompt."""
        kept = {name: body[name] for name in body.keys() - set(LONGER_THAN_PREFILL)}
        parameters = {"do_remote_decode": True, "transfer_id": self.transfer}
        return {**kept, **PREFILL_LENGTH, "kv_transfer_params": parameters}

    def decode_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The client's request, and where its KV comes from."""
        parameters = {
            "do_remote_prefill": True,
            "transfer_id": self.transfer,
            "remote_bootstrap_addr": self.prefill.bootstrap,
            "remote_engine_id": self.prefill.engine_id,
        }
        return {**body, "kv_transfer_params": parameters}


class Proxy:
    """Holds the servers and takes requests."""

    def __init__(self, prefill: list[tuple[str, str]], decode: list[str]) -> None:
        self._prefill = prefill
        self._decode = decode
        self._decode_turns = itertools.cycle(decode)
        self._prefill_turns: Iterator[PrefillRank] | None = None

    def application(self) -> web.Application:
        """The routes that vLLM has too."""
        application = web.Application(client_max_size=64 << 20)
        application.cleanup_ctx.append(self._client)
        application.router.add_get("/health", self.health)
        application.router.add_get("/v1/models", self.models)
        application.router.add_post("/v1/completions", self.complete)
        application.router.add_post("/v1/chat/completions", self.complete)
        return application

    async def _client(self, _application: web.Application) -> AsyncIterator[None]:
        async with ClientSession(timeout=TIMEOUT) as self._session:
            yield

    async def health(self, _request: web.Request) -> web.Response:
        """Succeeds when every server behind this proxy does."""
        try:
            await self._learn_engine_ids()
            for url in [url for url, _ in self._prefill] + self._decode:
                async with self._session.get(f"{url}/health") as response:
                    response.raise_for_status()
        except (ClientError, OSError) as error:
            return web.json_response({"error": str(error)}, status=503)
        return web.Response()

    async def models(self, _request: web.Request) -> web.Response:
        """What a decode server serves."""
        async with self._session.get(f"{self._decode[0]}/v1/models") as response:
            return web.json_response(await response.json(), status=response.status)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Runs a request on both servers; the first failure ends it on the other one too."""
        try:
            body = await request.json()
        except json.JSONDecodeError as error:
            return error_response(f"the body is not JSON: {error}", BAD_REQUEST)
        if not isinstance(body, dict):
            return error_response("the body is not a JSON object", BAD_REQUEST)
        try:
            turns = await self._learn_engine_ids()
        except (ClientError, OSError, KeyError, ValueError) as error:
            return error_response(
                f"a prefill server does not answer /query: {error!r}", BAD_GATEWAY
            )
        pair = Pair(next(turns), next(self._decode_turns), uuid.uuid4().hex)
        answer = web.StreamResponse()
        failure: LegFailed | None = None
        try:
            async with asyncio.TaskGroup() as legs:
                legs.create_task(self._run_prefill(request, body, pair))
                legs.create_task(self._run_decode(request, body, pair, answer))
        except* LegFailed as failures:
            failure = failures.exceptions[0]  # type: ignore[assignment]
        if failure is None:
            return answer
        if not answer.prepared:
            return error_response(str(failure), failure.status)
        event = {"error": {"message": str(failure), "code": failure.status}}
        await answer.write(f"data: {json.dumps(event)}\n\n".encode())
        await answer.write_eof()
        return answer

    async def _run_prefill(self, request: web.Request, body: dict[str, Any], pair: Pair) -> None:
        headers = {"X-data-parallel-rank": pair.prefill.rank}
        async with self._post(pair.prefill.url, request, pair.prefill_body(body), headers) as reply:
            await reply.read()

    async def _run_decode(
        self,
        request: web.Request,
        body: dict[str, Any],
        pair: Pair,
        answer: web.StreamResponse,
    ) -> None:
        async with self._post(pair.decode, request, pair.decode_body(body), {}) as reply:
            answer.content_type = reply.content_type
            await answer.prepare(request)
            async for chunk in reply.content.iter_any():
                await answer.write(chunk)
        await answer.write_eof()

    @contextlib.asynccontextmanager
    async def _post(
        self,
        server: str,
        request: web.Request,
        body: dict[str, Any],
        headers: dict[str, str],
    ) -> AsyncIterator[ClientResponse]:
        """A server's good answer; LegFailed if it gives another one, or breaks off."""
        if "Authorization" in request.headers:
            headers["Authorization"] = request.headers["Authorization"]
        try:
            async with self._session.post(
                f"{server}{request.path}", json=body, headers=headers
            ) as reply:
                if reply.status != OK:
                    raise LegFailed(server, reply.status, await reply.text())
                yield reply
        except ClientError as error:
            raise LegFailed(server, BAD_GATEWAY, repr(error)) from error

    async def _learn_engine_ids(self) -> Iterator[PrefillRank]:
        """Asks the prefill servers who they are; once, since engine ids survive restarts."""
        if self._prefill_turns is None:
            ranks = []
            for url, port in self._prefill:
                bootstrap = f"http://{urlsplit(url).hostname}:{port}"
                async with self._session.get(f"{bootstrap}/query") as reply:
                    reply.raise_for_status()
                    entries = await reply.json()
                ranks += [
                    PrefillRank(url, bootstrap, rank, entry["engine_id"])
                    for rank, entry in entries.items()
                ]
            self._prefill_turns = itertools.cycle(ranks)
        return self._prefill_turns


def error_response(message: str, status: int) -> web.Response:
    """An error in the shape of the OpenAI API."""
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--prefill", nargs=2, action="append", required=True, metavar=("URL", "BOOTSTRAP_PORT")
    )
    parser.add_argument("--decode", action="append", required=True, metavar="URL")
    arguments = parser.parse_args()
    prefill = [(url.rstrip("/"), port) for url, port in arguments.prefill]
    proxy = Proxy(prefill, [url.rstrip("/") for url in arguments.decode])
    # A client that goes away ends its request on both servers.
    web.run_app(
        proxy.application(), host=arguments.host, port=arguments.port, handler_cancellation=True
    )


if __name__ == "__main__":
    main()
