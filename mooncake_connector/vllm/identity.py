# SPDX-License-Identifier: Apache-2.0
"""Names that P and D must agree on without talking: tags of requests, fingerprints of models."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from mooncake_connector import fingerprint

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.v1.request import Request

# vLLM names what one client request becomes "<n>_<id>-<prompt>-<8 hex digits>": <n> counts the
# samples of one prompt, <prompt> the prompts of one request, the digits make it unique.
_INTERNAL_REQUEST_ID = re.compile(r"(?:\d+_)?(?P<client>.*?)(?:-\d+)?(?:-[0-9a-f]{8})?")

_PROCESS_SECRET = secrets.token_bytes(16)


def tag_of(transfer_id: str, request: Request) -> bytes:
    """The tag under which both sides know this request's KV (32 bytes).

    Routers send all prompts and all samples of one client request under one transfer id, so the
    id alone is not enough: whatever KV depends on goes in. Requests with equal tags have equal
    KV, and the engine pairs them first come, first served.
    """
    prompt = np.asarray(request.prompt_token_ids, dtype=np.int32).tobytes()
    lora = request.lora_request.lora_name if request.lora_request is not None else ""
    texts = [transfer_id, lora, request.cache_salt or ""]
    texts += [feature.identifier for feature in request.mm_features]
    return _digest([prompt, *(text.encode() for text in texts)])


def mint_transfer_id(request_id: str) -> str:
    """A transfer id for a request that came without one, unguessable from outside.

    All samples and prompts of one client request get the same one, because routers relay only one
    of P's answers to D.
    """
    match = _INTERNAL_REQUEST_ID.fullmatch(request_id)
    client = match["client"] if match else request_id
    return hashlib.blake2b(client.encode(), key=_PROCESS_SECRET, digest_size=16).hexdigest()


def model_fingerprint(model: ModelConfig, model_id: str | None) -> str:
    """Text that is equal on P and D when they serve the same model.

    Args:
        model: vLLM's description of the model.
        model_id: the operator's own name for the model, where its folder's name differs.
    """
    return fingerprint.model_fingerprint(model.model, model.hf_config, model.dtype, model_id)


def _digest(pieces: Iterable[bytes]) -> bytes:
    """SHA-256 over length-prefixed pieces, so that no two lists give the same text."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.digest()
