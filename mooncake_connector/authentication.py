# SPDX-License-Identifier: Apache-2.0
"""Makes and checks the proofs of sessions' handshakes, on a thread of its own.

The engine holds no key and does no cryptography: it hands over what is to be proved. While this
thread waits for the GIL, a handshake waits with it and nothing else does. The order of messages and
what a proof covers are defined in ``csrc/protocol/handshake.hpp`` and ``docs/protocol.md``.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Sequence

from mooncake_connector import _engine
from mooncake_connector.errors import TransferAborted
from mooncake_connector.keys import Key


def start(native: _engine.Engine, keys: Sequence[Key]) -> threading.Thread | None:
    """Serves the engine until it is closed; without keys there is nothing to serve."""
    if not keys:
        return None
    thread = threading.Thread(target=_serve, args=(native, keys), name="mc-auth", daemon=True)
    thread.start()
    return thread


def _serve(native: _engine.Engine, keys: Sequence[Key]) -> None:
    secrets = {key.id: key.secret for key in keys}
    while (task := native.next_proof()) is not None:
        session, key_id, statement, proof = task
        made = hmac.digest(secrets[key_id], statement, "sha256")
        holds = proof is None or hmac.compare_digest(made, proof)
        try:
            native.answer_proof(session, made if holds else None)
        except TransferAborted:  # the engine was closed meanwhile
            return
