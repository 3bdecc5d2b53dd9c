# SPDX-License-Identifier: Apache-2.0
"""The engine: moves pages between this process and others.

A sender opens ``send(tag)`` and adds pages as it has them; a receiver posts ``recv(sender, tag,
pages)``. Whichever comes first waits for the other. Everything happens in threads of the engine
that never take the GIL; the calls here only hand over work, and `Engine.poll` tells what has ended.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mooncake_connector import _engine, authentication
from mooncake_connector.arguments import (
    as_count,
    as_list_of_counts,
    as_page_array,
    as_seconds,
    as_tag,
)
from mooncake_connector.config import EngineConfig
from mooncake_connector.errors import ConfigError
from mooncake_connector.keys import load_keys
from mooncake_connector.pools import Part, Pool, PoolSpec, WindowedPart, memory_of
from mooncake_connector.transfers import Completion, Recv, Send, Transfer

_PART_SHAPE = "a part is (pool, page_ids) or (pool, page_ids, first_token)"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegisteredMemory:
    """Memory that one-sided transfers may use: address and length in bytes."""

    address: int
    nbytes: int
    remote: str


class Engine:
    """Moves pages between this process and others. Thread-safe.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        if config is not None and not isinstance(config, EngineConfig):
            raise ConfigError(f"config must be an EngineConfig, not {type(config).__name__}")
        self.config: Final = config or EngineConfig()
        keys = load_keys(self.config.key_file)
        self._native = _engine.Engine(self.config, [key.id for key in keys])
        self._authentication = authentication.start(self._native, keys)
        if self._authentication is not None:  # it keeps the native engine alive
            weakref.finalize(self, self._native.close)
        self._pools: dict[str, Pool] = {}
        self._keep: dict[int, Any] = {}  # registered memory, by address
        self._transfers: weakref.WeakValueDictionary[int, Transfer] = weakref.WeakValueDictionary()

    @property
    def address(self) -> str:
        """``host:port`` at which peers find this engine."""
        return self._native.address

    @property
    def instance_id(self) -> str:
        """32 hexadecimal digits, different for each incarnation."""
        return self._native.instance_id

    def register_pool(self, spec: PoolSpec) -> Pool:
        """Makes a pool's pages known to this engine and its peers. Keep its memory alive.

        Raises:
            ConfigError: the description contradicts itself, or the name is taken.
            UnsupportedError: the pool lies in memory that this build cannot reach.
        """
        self._native.register_pool(spec)
        pool = Pool(spec)
        self._pools[spec.name] = pool
        return pool

    def register_memory(self, memory: Any, remote: str = "") -> RegisteredMemory:
        """Lets one-sided transfers use this memory.

        Args:
            memory: a contiguous tensor, array or writable buffer, which is kept alive and cannot be
                resized or closed meanwhile; or (address, nbytes, device), with device None for host
                memory.
            remote: what peers may do with it: "", "r", "w" or "rw".

        Raises:
            ConfigError: it is empty or overlaps registered memory.
        """
        if remote not in ("", "r", "w", "rw"):
            raise ConfigError(f"remote={remote!r} is not one of '', 'r', 'w', 'rw'")
        address, nbytes, device, kept = memory_of(memory)
        self._native.register_memory(address, nbytes, device, "r" in remote, "w" in remote)
        self._keep[address] = kept
        return RegisteredMemory(address, nbytes, remote)

    def unregister_memory(self, memory: RegisteredMemory) -> None:
        """Forgets the memory. Transfers that run on it go on: wait for them first."""
        self._native.unregister_memory(memory.address)
        self._keep.pop(memory.address, None)

    def send(self, tag: bytes, deadline: float = 60.0) -> Send:
        """Opens the sending end of a transfer; receivers can find it from now on.

        Args:
            tag: what both sides call this transfer, 1 to 256 bytes. Equal tags pair first come,
                first served.
            deadline: seconds without any progress, once it is finished, after which it fails with
                TransferTimeout.

        Raises:
            ConfigError: the tag is not 1 to 256 bytes, or the deadline no number of seconds.
        """
        return Send(self, self._native.send(as_tag(tag), as_seconds(deadline, "deadline")))

    def recv(
        self,
        sender: str | Sequence[str],
        tag: bytes,
        parts: Sequence[Part | WindowedPart],
        *,
        tokens: int,
        first_token: int = 0,
        rows: Sequence[Part] = (),
        deadline: float = 60.0,
        request: int = 0,
        receiver_index: int = 0,
        receiver_count: int = 1,
    ) -> Recv:
        """Asks a sender, or several that hold different heads or layers, for pages.

        Args:
            sender: address or addresses.
            tag: the send's.
            parts: (pool, page_ids): int32 pages of this engine for the tokens [first_token,
                tokens); the first page is the one that holds first_token. Pages equal to the pool's
                null page are left out. No parts (and tokens=0) releases the send. A part whose
                tokens are wanted from a later one on (a sliding window) says so: (pool, page_ids,
                first_token).
            tokens: number of the first token that is not wanted.
            first_token: number of the first token that is.
            rows: (pool, page_ids): rows that come at the end of the send.
            deadline: seconds until it fails with TransferTimeout.
            request: a number shared by all receivers (ranks) of one request, if there are several.
            receiver_index: this receiver's number among them.
            receiver_count: how many there are.

        Raises:
            ConfigError: a page id or token number is out of range, or an address malformed.
        """
        addresses = [sender] if isinstance(sender, str) else list(sender)
        if not all(isinstance(address, str) for address in addresses):
            raise ConfigError(f"sender={sender!r} is not an address (host:port), or several")
        if tokens and not parts:
            raise ConfigError(
                f"tokens={tokens}, but no parts for them; without parts a recv releases the send, "
                "and tokens must be 0"
            )
        handle = self._native.recv(
            addresses,
            as_tag(tag),
            [self._part(part) for part in parts],
            as_count(first_token, "first_token"),
            as_count(tokens, "tokens"),
            [self._part(row) for row in rows],
            as_count(request, "request", 64),
            as_count(receiver_index, "receiver_index"),
            as_count(receiver_count, "receiver_count"),
            as_seconds(deadline, "deadline"),
        )
        return Recv(self, handle)

    def write(
        self,
        address: str,
        source: npt.NDArray[np.uint64],
        destination: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        deadline: float = 60.0,
    ) -> Transfer:
        """Copies registered memory here to memory that the peer registered with remote="w".

        Args:
            address: the peer's.
            source: uint64 addresses in this process, shape (segments,).
            destination: uint64 addresses in the peer, shape (segments,).
            lengths: uint64 bytes, shape (segments,).
            deadline: seconds until it fails with TransferTimeout.
        """
        return Transfer(
            self,
            self._native.write(
                address, *_lists(source, destination, lengths), as_seconds(deadline, "deadline")
            ),
        )

    def read(
        self,
        address: str,
        source: npt.NDArray[np.uint64],
        destination: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        deadline: float = 60.0,
    ) -> Transfer:
        """Copies memory that the peer registered with remote="r" to registered memory here.

        Args:
            address: the peer's.
            source: uint64 addresses in the peer, shape (segments,).
            destination: uint64 addresses in this process, shape (segments,).
            lengths: uint64 bytes, shape (segments,).
            deadline: seconds until it fails with TransferTimeout.
        """
        return Transfer(
            self,
            self._native.read(
                address, *_lists(source, destination, lengths), as_seconds(deadline, "deadline")
            ),
        )

    def poll(self) -> list[Completion]:
        """What has ended since the last call, oldest first. Never blocks.

        Also hands the engine's log lines to this module's logger. Transfers whose object is gone
        are left out: nobody is interested in them.
        """
        self._write_log()
        completions = []
        for handle in self._native.poll():
            transfer = self._transfers.get(handle.id)
            if transfer is not None:
                outcome = self._native.outcome(handle)
                assert outcome is not None
                completions.append(Completion.of(transfer, outcome))
        return completions

    def peers(self) -> list[dict[str, Any]]:
        """Sessions: address, instance_id, state, path, notes (why not a better one), bytes."""
        return self._native.peers()

    def stats(self) -> dict[str, int]:
        """How many sends, recvs, grants and parked requests are open.

        ``same_host_over_tcp`` counts sessions so far: with peers on this host to which no better
        path could be found.
        """
        return self._native.stats()

    def close(self) -> None:
        """Ends all transfers (TransferAborted) and all threads. Idempotent."""
        self._native.close()
        if self._authentication is not None:
            self._authentication.join()
        self._write_log()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _part(self, part: Any) -> tuple[str, npt.NDArray[np.int32], int]:
        """A part of a transfer as the native engine takes it."""
        try:
            pool, page_ids, *rest = part
            (first_token,) = rest or (0,)
        except (TypeError, ValueError):
            raise ConfigError(f"{part!r} is no part; {_PART_SHAPE}") from None
        if not isinstance(pool, Pool):
            raise ConfigError(f"{pool!r} is no pool of this engine; {_PART_SHAPE}")
        if self._pools.get(pool.name) is not pool:
            raise ConfigError(f"{pool!r} is not registered with this engine")
        return pool.name, as_page_array(page_ids), as_count(first_token, "first_token")

    def _write_log(self) -> None:
        for level, text in self._native.take_log():
            logger.log(level, "%s", text)


def _lists(
    source: npt.NDArray[np.uint64],
    destination: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """What a one-sided transfer copies, as the native engine takes it."""
    return (
        as_list_of_counts(source, "source"),
        as_list_of_counts(destination, "destination"),
        as_list_of_counts(lengths, "lengths"),
    )
