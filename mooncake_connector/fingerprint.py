# SPDX-License-Identifier: Apache-2.0
"""Names a model so that P and D notice when they do not serve the same one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

# Fields of a model's configuration that differ between copies of one model.
_VOLATILE_FIELDS = frozenset({"_name_or_path", "name_or_path", "transformers_version"})


def model_fingerprint(path: str, hf_config: Any, dtype: object, model_id: str | None) -> str:
    """Text that is equal on P and D when they serve the same model.

    Args:
        path: the model's folder or name, of which the last part counts.
        hf_config: its Hugging Face configuration.
        dtype: of its weights.
        model_id: the operator's own name for the model, where its folder's name differs.
    """
    name = model_id or Path(path).name
    fields = hf_config.to_dict()
    stable = {key: fields[key] for key in fields.keys() - _VOLATILE_FIELDS}
    text = json.dumps(stable, sort_keys=True, default=str)
    return f"{name}|config {hashlib.sha256(text.encode()).hexdigest()[:16]}|{dtype}"
