# SPDX-License-Identifier: Apache-2.0
"""D's side of the bootstrap: asks P's bootstrap server in the background, and remembers shortly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from mooncake_connector.bootstrap import bearer_tokens, fetch
from mooncake_connector.config import ConnectorConfig
from mooncake_connector.errors import (
    AuthenticationFailed,
    ConfigError,
    MooncakeConnectorError,
    PeerUnreachable,
)

# Short enough that a restarted P (which takes longer than this to load a model) is seen at once,
# long enough that a burst of requests asks only once.
_CACHE_SECONDS = 1.0
_CACHE_ENTRIES = 256
_THREADS = 4

Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Cached(Generic[Answer]):
    expires: float
    answer: Answer


class Lookups(Generic[Answer]):
    """What P's bootstrap servers answer to ``GET /query``. Thread-safe."""

    def __init__(
        self,
        config: ConnectorConfig,
        parse: Callable[[bytes], Answer],
        tells_workers: Callable[[Answer], bool],
    ) -> None:
        """Starts no request yet.

        Args:
            config: the key, the timeout, and which hosts may be contacted.
            parse: makes an answer of a body; raises ProtocolError.
            tells_workers: whether an answer is more than what those without a key get. Otherwise
                the next key is tried: P may know only one of two.
        """
        self._config = config
        self._parse = parse
        self._tells_workers = tells_workers
        self._tokens = bearer_tokens(config.key_file)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mooncake-lookup")
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, int], _Cached[Answer]] = {}

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Runs something that uses `answer` on one of the lookup threads."""
        return self._pool.submit(work)

    def answer(self, host: str, port: int) -> Answer:
        """P's answer, not older than a second. Blocks; call it through `submit`.

        Raises:
            PeerUnreachable: nobody answers.
            AuthenticationFailed, ProtocolError: the answer is of no use.
        """
        now = time.monotonic()
        with self._lock:
            cached = self._cache.get((host, port))
        if cached is not None and now < cached.expires:
            return cached.answer
        answer = self._ask(host, port)
        with self._lock:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            self._cache[host, port] = _Cached(now + _CACHE_SECONDS, answer)
        return answer

    def forget(self, host: str, port: int) -> None:
        """P is gone or has been restarted: the next lookup asks it anew."""
        with self._lock:
            self._cache.pop((host, port), None)

    def _ask(self, host: str, port: int) -> Answer:
        refused: AuthenticationFailed | None = None
        answer: Answer | None = None
        for token in self._tokens or (None,):
            try:
                timeout = self._config.bootstrap_timeout
                body = fetch("GET", host, port, "/query", token=token, timeout=timeout)
            except OSError as error:
                raise PeerUnreachable(
                    f"no answer from the prefill server's bootstrap at {host}:{port}: {error}"
                ) from None
            except AuthenticationFailed as error:
                refused = error
                continue
            answer = self._parse(body)
            if self._tells_workers(answer):
                break
        if answer is None:
            assert refused is not None
            raise refused
        return answer

    def require_allowed(self, host: str, origin: str, cure: str) -> None:
        """Checks a host that came from outside.

        Raises:
            ConfigError: this server may not be sent there.
        """
        if not self._config.allows(host):
            raise ConfigError(f"{origin} names host {host!r}, which is not allowed. {cure}")

    def close(self) -> None:
        """Stops the threads; lookups that have not begun are cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def outcome(future: Future[Result]) -> Result | MooncakeConnectorError:
    """A finished lookup's result, or why there is none."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, MooncakeConnectorError):
        return error
    return PeerUnreachable(f"looking up the prefill server failed: {error!r}")
