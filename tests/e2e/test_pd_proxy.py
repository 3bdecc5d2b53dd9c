# SPDX-License-Identifier: Apache-2.0
"""examples/pd_proxy.py in front of stub servers: what it sends, and how failures spread."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, web

PROXY = Path(__file__).resolve().parents[2] / "examples" / "pd_proxy.py"
EVENTS = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answer(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"choices": [{"text": "hello"}]})


async def fail(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "out of pages"}, status=507)


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "text/event-stream"
    await response.prepare(request)
    for event in EVENTS:
        await response.write(event)
    return response


async def stream_forever(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "text/event-stream"
    await response.prepare(request)
    await response.write(EVENTS[0])
    return await hang(request)


@dataclass
class Stub:
    """A server that notes the bodies it got and whether a request was taken from it."""

    behave: Behaviour = answer
    engine_ids: dict[str, str] = field(default_factory=lambda: {"0": "engine"})
    queries: int = 0
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.arrived.set()
        try:
            return await self.behave(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def query(self, _request: web.Request) -> web.Response:
        self.queries += 1
        return web.json_response(
            {
                rank: {"engine_id": engine_id, "worker_addr": {}}
                for rank, engine_id in self.engine_ids.items()
            }
        )

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()


@contextlib.asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_post("/v1/completions", stub.complete)
    application.router.add_get("/query", stub.query)
    application.router.add_get("/health", stub.health)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def proxied(prefill: Stub, decode: Stub) -> AsyncIterator[tuple[ClientSession, str]]:
    async with contextlib.AsyncExitStack() as stack:
        prefill_port = await stack.enter_async_context(serving(prefill))
        decode_port = await stack.enter_async_context(serving(decode))
        probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROXY), "--port", str(port)),
            *("--prefill", f"http://127.0.0.1:{prefill_port}", str(prefill_port)),
            *("--decode", f"http://127.0.0.1:{decode_port}"),
        )
        try:
            session = await stack.enter_async_context(ClientSession())
            url = f"http://127.0.0.1:{port}"
            while True:
                with contextlib.suppress(OSError):
                    async with session.get(f"{url}/health") as response:
                        # Before the prefill server has a rank, the proxy says that it is not ready.
                        if response.ok or not prefill.engine_ids:
                            break
                await asyncio.sleep(0.05)
            yield session, f"{url}/v1/completions"
        finally:
            process.terminate()
            await process.wait()


def test_both_servers_get_the_request_under_one_transfer_id() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(engine_ids={"0": "prefill-7"}), Stub()
        body = {"prompt": "x", "max_tokens": 9, "min_tokens": 4, "n": 2}
        async with proxied(prefill, decode) as (session, url):
            headers = {"Authorization": "Bearer key"}
            async with session.post(url, json=body, headers=headers) as response:
                assert response.status == 200
                assert await response.json() == {"choices": [{"text": "hello"}]}
        (to_prefill,), (to_decode,) = prefill.bodies, decode.bodies
        transfer = to_prefill["kv_transfer_params"]["transfer_id"]
        assert len(transfer) == 32
        assert to_prefill == {
            "prompt": "x",
            "max_tokens": 1,
            "n": 2,
            "stream": False,
            "kv_transfer_params": {"do_remote_decode": True, "transfer_id": transfer},
        }
        decode_parameters = to_decode.pop("kv_transfer_params")
        assert to_decode == body
        assert decode_parameters.pop("remote_bootstrap_addr").startswith("http://127.0.0.1:")
        assert decode_parameters == {
            "do_remote_prefill": True,
            "transfer_id": transfer,
            "remote_engine_id": "prefill-7",
        }
        for got in prefill.headers + decode.headers:
            assert got["Authorization"] == "Bearer key"

    asyncio.run(scenario())


def test_decode_server_is_asked_while_prefill_runs() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(), Stub()

        async def wait_for_decode(request: web.Request) -> web.StreamResponse:
            await decode.arrived.wait()
            return await answer(request)

        prefill.behave = wait_for_decode
        async with (
            proxied(prefill, decode) as (session, url),
            session.post(url, json={"prompt": "x"}) as response,
        ):
            assert response.status == 200

    asyncio.run(scenario())


def test_stream_is_passed_on() -> None:
    async def scenario() -> None:
        async with (
            proxied(Stub(), Stub(behave=stream)) as (session, url),
            session.post(url, json={"prompt": "x", "stream": True}) as response,
        ):
            assert response.content_type == "text/event-stream"
            assert await response.read() == b"".join(EVENTS)

    asyncio.run(scenario())


def test_failed_prefill_takes_the_request_from_the_decode_server() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(), Stub(behave=hang)

        async def fail_late(request: web.Request) -> web.StreamResponse:
            await decode.arrived.wait()
            return await fail(request)

        prefill.behave = fail_late
        async with proxied(prefill, decode) as (session, url):
            async with session.post(url, json={"prompt": "x"}) as response:
                assert response.status == 507
                assert "out of pages" in await response.text()
            await decode.cancelled.wait()

    asyncio.run(scenario())


def test_prefill_that_fails_under_a_stream_ends_it_with_an_error() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(), Stub(behave=stream_forever)
        release = asyncio.Event()

        async def fail_when_told(request: web.Request) -> web.StreamResponse:
            await release.wait()
            return await fail(request)

        prefill.behave = fail_when_told
        async with proxied(prefill, decode) as (session, url):
            async with session.post(url, json={"prompt": "x", "stream": True}) as response:
                assert await response.content.readuntil(b"\n\n") == EVENTS[0]
                release.set()
                event = json.loads((await response.read()).removeprefix(b"data: "))
                assert event["error"]["code"] == 507
            await decode.cancelled.wait()

    asyncio.run(scenario())


def test_failed_decode_takes_the_request_from_the_prefill_server() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(behave=hang), Stub()

        async def fail_late(request: web.Request) -> web.StreamResponse:
            await prefill.arrived.wait()
            return await fail(request)

        decode.behave = fail_late
        async with proxied(prefill, decode) as (session, url):
            async with session.post(url, json={"prompt": "x"}) as response:
                assert response.status == 507
            await prefill.cancelled.wait()

    asyncio.run(scenario())


def test_client_that_leaves_ends_both() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(behave=hang), Stub(behave=hang)
        async with proxied(prefill, decode) as (session, url):
            request = asyncio.create_task(session.post(url, json={"prompt": "x"}))
            await prefill.arrived.wait()
            await decode.arrived.wait()
            request.cancel()
            await prefill.cancelled.wait()
            await decode.cancelled.wait()

    asyncio.run(scenario())


def test_bad_bodies_are_the_clients_fault() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(), Stub()
        async with proxied(prefill, decode) as (session, url):
            for body in (b"{", b"[1]"):
                async with session.post(url, data=body) as response:
                    assert response.status == 400
                    assert "JSON" in await response.text()
        assert prefill.bodies == decode.bodies == []

    asyncio.run(scenario())


def test_prefill_server_without_a_rank_is_asked_again() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(engine_ids={}), Stub()
        async with proxied(prefill, decode) as (session, url):
            async with session.get(url.replace("/v1/completions", "/health")) as response:
                assert response.status == 503
                assert "still starting" in (await response.json())["error"]
            async with session.post(url, json={"prompt": "x"}) as response:
                assert response.status == 503
                error = (await response.json())["error"]
                assert error["code"] == 503
                assert "http://127.0.0.1:" in error["message"]
                assert "still starting" in error["message"]
            assert prefill.bodies == decode.bodies == []
            prefill.engine_ids = {"0": "first"}
            async with session.post(url, json={"prompt": "x"}) as response:
                assert response.status == 200
        parameters = decode.bodies[0]["kv_transfer_params"]
        assert parameters["remote_engine_id"] == "first"

    asyncio.run(scenario())


def test_rank_that_appears_later_is_used() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(engine_ids={"0": "first"}), Stub()
        async with proxied(prefill, decode) as (session, url):

            async def ask() -> tuple[str, str]:
                async with session.post(url, json={"prompt": "x"}) as response:
                    assert response.status == 200
                parameters = decode.bodies[-1]["kv_transfer_params"]
                return prefill.headers[-1]["X-data-parallel-rank"], parameters["remote_engine_id"]

            assert await ask() == ("0", "first")
            prefill.engine_ids["1"] = "second"
            async with asyncio.timeout(30):
                while await ask() != ("1", "second"):
                    await asyncio.sleep(0.1)
            assert await ask() == ("0", "first")

    asyncio.run(scenario())


def test_known_ranks_stay_in_use_while_the_server_names_none() -> None:
    async def scenario() -> None:
        prefill, decode = Stub(), Stub()
        async with proxied(prefill, decode) as (session, url):
            prefill.engine_ids = {}
            before = prefill.queries
            async with asyncio.timeout(30):
                while prefill.queries == before:
                    async with session.post(url, json={"prompt": "x"}) as response:
                        assert response.status == 200
                    await asyncio.sleep(0.1)

    asyncio.run(scenario())
