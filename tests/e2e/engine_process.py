# SPDX-License-Identifier: Apache-2.0
"""vLLM engines in forks of the test process: imported once, each started within seconds.

Scheduler, worker and model of an engine live in one process, which the test steps through a pipe.
That is fast, and it lets a test hold an engine between two steps. (The path with separate processes
has tests of its own.)
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import make_tiny_model
import vllm.v1.attention.backends.cpu_attn
import vllm.v1.worker.cpu_worker  # noqa: F401 - imported here so that the forks need not
from servers import free_port
from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig
from vllm.sampling_params import RequestOutputKind

from mooncake_connector.vllm import MooncakeConnector
from mooncake_connector.vllm.plugin import register

START_TIMEOUT = 180.0
REQUEST_TIMEOUT = 90.0
KV_CACHE_BYTES = 64 << 20
FORK = multiprocessing.get_context("fork")
WORKER_LOGGER = "mooncake_connector.vllm.worker"


class Models:
    """Makes tiny models on demand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, kind: str) -> Path:
        """The folder of a model of this kind."""
        folder = self._folder / kind
        if not folder.exists():
            make_tiny_model.make(folder, kind)
        return folder


@dataclass(frozen=True)
class Answer:
    """What an engine made of a request; one list of tokens for each sample."""

    samples: list[list[int]]
    finish_reason: str | None
    kv_transfer_params: dict[str, Any] | None

    @property
    def tokens(self) -> list[int]:
        return self.samples[0]


@dataclass(frozen=True)
class Fetched:
    """What the decode side logged of one request."""

    request_id: str
    tokens: int
    nbytes: int
    spans: int


class EngineProcess:
    """One vLLM engine in a process of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        gc.freeze()  # else the child's collections copy every page of what was imported
        self._pipe, theirs = FORK.Pipe()
        self._process = FORK.Process(target=_serve, args=(theirs, options), daemon=True)
        self._process.start()
        theirs.close()
        self._answers: dict[str, Answer] = {}
        self._replies: deque[Any] = deque()
        self._ids = 0

    def wait_started(self) -> None:
        """Raises what kept the engine from starting."""
        self._reply(START_TIMEOUT)

    def submit(
        self,
        prompt: Sequence[int],
        max_tokens: int = 1,
        kv: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> str:
        """Adds a request; returns its id at once."""
        self._ids += 1
        request_id = f"request-{self._ids}"
        options = {"temperature": 0.0, "ignore_eos": True, "max_tokens": max_tokens, **sampling}
        if kv is not None:
            options["extra_args"] = {"kv_transfer_params": kv}
        self._pipe.send(("submit", request_id, list(prompt), options))
        return request_id

    def answer(self, request_id: str, timeout: float = REQUEST_TIMEOUT) -> Answer:
        """Waits for a request's end."""
        deadline = time.monotonic() + timeout
        while request_id not in self._answers:
            self._receive(deadline, f"{request_id} has no answer")
        return self._answers.pop(request_id)

    def abort(self, request_id: str) -> None:
        """Aborts a request, as a client does that goes away."""
        self._ask("abort", request_id)

    def hold(self) -> None:
        """Takes no more steps until ``step`` or ``go_on``."""
        self._ask("hold")

    def step(self, count: int) -> None:
        """Takes so many steps, then holds again."""
        self._ask("step", count)

    def go_on(self) -> None:
        """Takes steps whenever there is something to do."""
        self._ask("go_on")

    def probe(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a module-level function of (llm, *arguments) between two steps."""
        return self._ask("probe", function, arguments)

    def fetched(self) -> list[Fetched]:
        """The transfers of which this engine was the receiver, so far."""
        return [Fetched(*args[:4]) for args in self._ask("logged", "fetched %d tokens")]

    def fetch_failures(self) -> list[str]:
        """Why requests' KV could not be fetched here, so far."""
        return [reason for _, reason in self._ask("logged", "could not be fetched")]

    def bootstrap(self) -> dict[str, Any]:
        """Where this prefill engine is found, as a router passes it to a decode engine."""
        return dict(self.probe(_bootstrap))

    def bytes_sent(self) -> int:
        """KV bytes that this engine has shipped so far."""
        return int(self.probe(_bytes_sent))

    def wait_idle(self, timeout: float = 30.0) -> None:
        """Waits until no request is left, and with it no page in use."""
        deadline = time.monotonic() + timeout
        while (left := self.probe(_left)) != (0, 0):
            assert time.monotonic() < deadline, f"{left} requests and pages are still there"
            time.sleep(0.02)

    def freeze(self) -> None:
        """Stops the process from running, with all its threads."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it run again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends the process as a crash would."""
        self._process.kill()
        self._process.join()

    def ask_to_end(self) -> None:
        """Lets the process end by itself; ``close`` waits for it."""
        with contextlib.suppress(OSError):
            self._pipe.send(("close",))

    def close(self) -> None:
        """Waits for the process's end, which ``ask_to_end`` has asked for."""
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, *command: Any) -> Any:
        self._pipe.send(command)
        return self._reply(REQUEST_TIMEOUT)

    def _reply(self, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while not self._replies:
            self._receive(deadline, "the engine does not reply")
        reply = self._replies.popleft()
        if isinstance(reply, _Failure):
            raise EngineError(reply.text)
        return reply

    def _receive(self, deadline: float, problem: str) -> None:
        if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError(problem)
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise EngineError(f"the engine's process ended ({self._process.exitcode})") from None
        if kind == "answer":
            request_id, answer = value
            self._answers[request_id] = answer
        elif kind == "died":
            raise EngineError(value)
        else:
            self._replies.append(value)


class EngineError(Exception):
    """What went wrong in an engine's process."""


@dataclass(frozen=True)
class _Failure:
    text: str


def _left(llm: LLM) -> tuple[int, int]:
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    # The null block is never free.
    return len(scheduler.requests), pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()


def connector_worker(llm: LLM) -> Any:
    """The worker half of the engine's connector."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    return _ours(get_kv_transfer_group()).worker


def connector_scheduler(llm: LLM) -> Any:
    """The scheduler half of the engine's connector."""
    return _ours(llm.llm_engine.engine_core.engine_core.scheduler.connector).scheduler


def _ours(connector: Any) -> Any:
    """Our connector, which may be one of several in a MultiConnector."""
    children = getattr(connector, "sub_connectors", [connector])
    return next(child for child in children if isinstance(child, MooncakeConnector))


def _bootstrap(llm: LLM) -> dict[str, Any]:
    server = connector_scheduler(llm)._server
    return {
        "remote_bootstrap_addr": f"http://127.0.0.1:{server.port}",
        "remote_engine_id": server.query()["0"]["engine_id"],
    }


def _bytes_sent(llm: LLM) -> int:
    return sum(sum(peer["bytes"].values()) for peer in connector_worker(llm).engine.peers())


class _Loop:
    """The child's side: obeys the pipe, steps the engine, sends answers."""

    def __init__(self, pipe: Connection, llm: LLM) -> None:
        self._pipe = pipe
        self._llm = llm
        self._engine = llm.llm_engine
        self._held = False
        self._log: list[tuple[str, tuple[Any, ...]]] = []
        logging.getLogger(WORKER_LOGGER).addFilter(self._note)

    def _note(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            self._log.append((str(record.msg), record.args))
        return True

    def run(self) -> None:
        while True:
            while self._pipe.poll(0 if self._busy() else 0.01):
                command, *arguments = self._pipe.recv()
                if command == "close":
                    return
                self._obey(command, arguments)
            if self._busy():
                self._advance()

    def _busy(self) -> bool:
        return not self._held and self._engine.engine_core.engine_core.scheduler.has_requests()

    def _advance(self) -> None:
        for output in self._engine.step():
            if output.finished:
                answer = Answer(
                    [list(sample.token_ids) for sample in output.outputs],
                    output.outputs[0].finish_reason,
                    output.kv_transfer_params,
                )
                self._pipe.send(("answer", (output.request_id, answer)))

    def _obey(self, command: str, arguments: list[Any]) -> None:
        if command == "submit":
            request_id, prompt, options = arguments
            self._engine.add_request(
                request_id,
                {"prompt_token_ids": prompt},
                SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **options),
            )
            return
        try:
            reply = getattr(self, f"_{command}")(*arguments)
        except Exception:
            reply = _Failure(traceback.format_exc())
        self._pipe.send(("reply", reply))

    def _abort(self, request_id: str) -> None:
        self._engine.abort_request([request_id])

    def _hold(self) -> None:
        self._held = True

    def _step(self, count: int) -> None:
        self._held = True
        for _ in range(count):
            self._advance()

    def _go_on(self) -> None:
        self._held = False

    def _probe(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(self._llm, *arguments)

    def _logged(self, text: str) -> list[tuple[Any, ...]]:
        return [arguments for message, arguments in self._log if text in message]


def _serve(pipe: Connection, options: dict[str, Any]) -> None:
    try:
        register()
        llm = LLM(**options)
    except BaseException:
        pipe.send(("reply", _Failure(traceback.format_exc())))
        return
    pipe.send(("reply", None))
    try:
        _Loop(pipe, llm).run()
    except BaseException:
        pipe.send(("died", traceback.format_exc()))
    finally:
        llm.llm_engine.engine_core.shutdown()


@dataclass
class Deployment:
    """Starts engines of one model with the options that all tests share, and stops them."""

    models: Models
    _engines: list[EngineProcess] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for engine in self._engines:
            engine.ask_to_end()
        for engine in self._engines:
            engine.close()

    def plain(self, model: str = "llama", **options: Any) -> EngineProcess:
        """An engine without a connector."""
        return self._start(model, options)

    def prefill(
        self,
        model: str = "llama",
        extra: dict[str, Any] | None = None,
        role: str = "kv_producer",
        others: Sequence[dict[str, Any]] = (),
        **options: Any,
    ) -> EngineProcess:
        """An engine that hands KV over. Its chunks of 120 tokens end inside pages."""
        options.setdefault("max_num_batched_tokens", 120)
        extra = {"bootstrap_port": free_port(), **(extra or {})}
        return self._start(model, options, _transfer(role, extra, {}, others))

    def decode(
        self,
        model: str = "llama",
        extra: dict[str, Any] | None = None,
        transfer: dict[str, Any] | None = None,
        others: Sequence[dict[str, Any]] = (),
        **options: Any,
    ) -> EngineProcess:
        """An engine that fetches KV. `others` are connectors that vLLM asks before ours."""
        return self._start(
            model, options, _transfer("kv_consumer", extra or {}, transfer or {}, others)
        )

    def _start(
        self, model: str, options: dict[str, Any], transfer: dict[str, Any] | None = None
    ) -> EngineProcess:
        arguments: dict[str, Any] = {
            "model": str(self.models.path(model)),
            "dtype": "float32",
            "block_size": 32,
            "enforce_eager": True,
            "max_model_len": 2048,
            "max_num_seqs": 8,
            "kv_cache_memory_bytes": KV_CACHE_BYTES,
            "disable_log_stats": True,
            **options,
        }
        if transfer is not None:
            arguments["kv_transfer_config"] = KVTransferConfig(**transfer)
        engine = EngineProcess(arguments)
        self._engines.append(engine)
        return engine


def _transfer(
    role: str,
    extra: dict[str, Any],
    changes: dict[str, Any],
    others: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What follows --kv-transfer-config: our connector, or a MultiConnector that holds it too."""
    ours = {
        "kv_connector": "mooncake_connector",
        "kv_role": role,
        "kv_connector_extra_config": {"log_level": "debug", **extra},
        **changes,
    }
    if not others:
        return ours
    return {
        "kv_connector": "MultiConnector",
        "kv_role": role,
        "kv_connector_extra_config": {"connectors": [*others, ours]},
    }


def started(*engines: EngineProcess) -> tuple[EngineProcess, ...]:
    """Waits until all of them run; they start side by side."""
    for engine in engines:
        engine.wait_started()
    return engines
