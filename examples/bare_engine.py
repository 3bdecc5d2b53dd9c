# SPDX-License-Identifier: Apache-2.0
"""The engine alone, without a serving engine: one process sends pages, another receives them.

    python bare_engine.py

The sender's pages grow while they are sent, as a prefill's do. The two sides have different page
sizes, and neither knows anything of the other's memory.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection

import numpy as np

from mooncake_connector import Engine, EngineConfig, Pool, PoolSpec, planes_from_array

TAG = b"request-1"
TOKENS = 1024
CHUNK = 256  # tokens that become ready at once
LAYERS, HEADS, ELEMENTS = 4, 2, 64


def make_pool(engine: Engine, page_size: int, page_count: int) -> tuple[Pool, np.ndarray]:
    """Registers a KV cache of 16-bit words: [layer, page, head, token of the page, element]."""
    shape = (LAYERS, page_count, HEADS, page_size, ELEMENTS)
    cache = np.zeros(shape, np.uint16)
    planes = planes_from_array(cache, "LBHNC")
    spec = PoolSpec(name="kv", page_size=page_size, page_count=page_count, planes=planes)
    return engine.register_pool(spec), cache


def kv_of(tokens: np.ndarray) -> np.ndarray:
    """What stands for the model: [layer, head, token, element] of these tokens."""
    shape = (LAYERS, HEADS, 1, ELEMENTS)
    word = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    return word + tokens.astype(np.uint16)[:, None] * np.uint16(7)


def prefill(address_to: Connection) -> None:
    """Has pages of 16 tokens, and sends them chunk by chunk."""
    page_size = 16
    with Engine(EngineConfig(host="127.0.0.1", port=0)) as engine:
        pool, cache = make_pool(engine, page_size, page_count=256)
        address_to.send(engine.address)
        free = np.random.default_rng(0).permutation(256).astype(np.int32)
        send = engine.send(TAG)  # receivers can find it from now on
        for first in range(0, TOKENS, CHUNK):
            pages, free = np.split(free, [CHUNK // page_size])
            for index, page in enumerate(pages):
                tokens = np.arange(page_size) + first + index * page_size
                cache[:, page] = kv_of(tokens)
            send.append(pool, pages)
            send.mark_ready(first + CHUNK)
        send.finish()
        send.wait(60)  # the pages are this process's again only now


def decode(address: str) -> bool:
    """Has pages of 64 tokens; asks for them all and compares."""
    page_size = 64
    with Engine(EngineConfig(host="127.0.0.1", port=0)) as engine:
        pool, cache = make_pool(engine, page_size, page_count=32)
        pages = np.random.default_rng(1).permutation(32)[: TOKENS // page_size].astype(np.int32)
        completion = engine.recv(address, TAG, [(pool, pages)], tokens=TOKENS).wait(60)
        if completion.error is not None:
            raise completion.error
        print(
            f"{TOKENS} tokens, {completion.bytes} bytes in {completion.spans} spans "
            f"over {completion.path}, {completion.seconds * 1e3:.1f} ms"
        )
        return all(
            (cache[:, page] == kv_of(np.arange(page_size) + index * page_size)).all()
            for index, page in enumerate(pages)
        )


def main() -> int:
    context = multiprocessing.get_context("spawn")
    address_from, address_to = context.Pipe(duplex=False)
    sender = context.Process(target=prefill, args=(address_to,))
    sender.start()
    address_to.close()  # so that a sender that dies is noticed here
    equal = decode(address_from.recv())
    sender.join()
    print("equal" if equal else "DIFFERENT")
    return 0 if equal and sender.exitcode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
