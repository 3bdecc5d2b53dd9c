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
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web

OK = 200
BAD_REQUEST = 400
BAD_GATEWAY = 502
UNAVAILABLE = 503
# Only connecting is limited: how long an answer takes is between the client and the servers.
TIMEOUT = ClientTimeout(total=None, sock_connect=10)
QUERY_TIMEOUT = ClientTimeout(total=10)
# Ranks that join late are used after this time.
RANKS_AGE_SECONDS = 3.0
# What the prefill server must not do with a request: it computes KV and one token.
PREFILL_LENGTH = {"max_tokens": 1, "stream": False}
LONGER_THAN_PREFILL = ("max_completion_tokens", "min_tokens", "stream_options")


class LegFailed(Exception):
    """One of the two servers refused or lost a request."""

    def __init__(self, server: str, status: int, text: str) -> None:
        super().__init__(f"{server}: HTTP {status}: {text}")
        self.status = status


class StillStarting(Exception):
    """A prefill server answers, but has no rank yet that could take a request."""


@dataclass(frozen=True)
class PrefillRank:
    """One data-parallel rank of a prefill server, and what a decode server must know of it."""

    url: str
    bootstrap: str
    rank: str
    engine_id: str


# What reading the ranks of a prefill server may end in.
QUERY_ERRORS = (StillStarting, ClientError, OSError, KeyError, ValueError)


@dataclass
class PrefillServer:
    """A prefill server and the ranks that it named last."""

    url: str
    bootstrap: str
    ranks: list[PrefillRank] = field(default_factory=list)
    asked: float = 0.0

    async def current_ranks(self, session: ClientSession) -> list[PrefillRank]:
        """The ranks, read again when they are old; known ones stay in use if that fails."""
        if not self.ranks:
            self.ranks = await self._query(session)
            self.asked = time.monotonic()
        elif time.monotonic() - self.asked > RANKS_AGE_SECONDS:
            # Requests that come meanwhile take the known ranks and do not wait.
            self.asked = time.monotonic()
            with contextlib.suppress(*QUERY_ERRORS):
                self.ranks = await self._query(session)
        return self.ranks

    async def _query(self, session: ClientSession) -> list[PrefillRank]:
        async with session.get(f"{self.bootstrap}/query", timeout=QUERY_TIMEOUT) as reply:
            reply.raise_for_status()
            entries = await reply.json()
        if not entries:
            raise StillStarting(
                f"the prefill server {self.url} is still starting: "
                f"{self.bootstrap}/query names no rank yet"
            )
        return [
            PrefillRank(self.url, self.bootstrap, rank, entry["engine_id"])
            for rank, entry in entries.items()
        ]


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
        self._prefill = [
            PrefillServer(url, f"http://{urlsplit(url).hostname}:{port}") for url, port in prefill
        ]
        self._decode = decode
        self._decode_turns = itertools.cycle(decode)
        self._prefill_turns = itertools.count()

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
            await self._prefill_ranks()
            for url in [server.url for server in self._prefill] + self._decode:
                async with self._session.get(f"{url}/health") as response:
                    response.raise_for_status()
        except QUERY_ERRORS as error:
            return web.json_response({"error": str(error)}, status=UNAVAILABLE)
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
            ranks = await self._prefill_ranks()
        except QUERY_ERRORS as error:
            return query_failure(error)
        rank = ranks[next(self._prefill_turns) % len(ranks)]
        pair = Pair(rank, next(self._decode_turns), uuid.uuid4().hex)
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

    async def _prefill_ranks(self) -> list[PrefillRank]:
        """All ranks of all prefill servers."""
        ranks = []
        for server in self._prefill:
            ranks += await server.current_ranks(self._session)
        return ranks


def error_response(message: str, status: int) -> web.Response:
    """An error in the shape of the OpenAI API."""
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


def query_failure(error: Exception) -> web.Response:
    """What a client is told when a prefill server's ranks are not known."""
    if isinstance(error, StillStarting):
        return error_response(str(error), UNAVAILABLE)
    return error_response(f"a prefill server does not answer /query: {error!r}", BAD_GATEWAY)


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
