# SPDX-License-Identifier: Apache-2.0
"""Stands in for SGLang's kernel package where there is no GPU: importable, and nothing else.

PyPI's builds are for CUDA. SGLang imports names from here while it loads and calls none of them
with its plain PyTorch layers; one that is called all the same says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} does not exist in this CPU test environment")

    return missing
