# SPDX-License-Identifier: Apache-2.0
"""Reads ``--disaggregation-ib-device``, which SGLang checks for its own backends only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mooncake_connector.errors import ConfigError

_OPTION = "--disaggregation-ib-device"
_FORMS = (
    'give names ("mlx5_0,mlx5_1"), a JSON object from GPU number to names ({"0": "mlx5_0"}), or '
    "the path of a .json file that holds one"
)
_SYSTEM_DEVICES = Path("/sys/class/infiniband")


def parse_devices(
    value: str | None, gpu: int, system_devices: Path = _SYSTEM_DEVICES
) -> tuple[str, ...]:
    """The RDMA devices that a worker may use, in the order given.

    Args:
        value: what the option says; None or blank means any.
        gpu: the worker's GPU, for forms that tell them by GPU.
        system_devices: where the system lists its devices.

    Returns:
        Their names; none if the option says nothing.

    Raises:
        ConfigError: the option is malformed, or names a device that this host does not have.
    """
    text = (value or "").strip()
    if not text:
        return ()
    if text.endswith(".json"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{_OPTION}={value!r} cannot be read: {error}") from None
        names = _of_gpu(text, gpu, value)
    elif text.startswith("{"):
        names = _of_gpu(text, gpu, value)
    else:
        names = text
    devices = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not devices:
        raise ConfigError(f"{_OPTION}={value!r} names no device; {_FORMS}")
    present = sorted(path.name for path in system_devices.glob("*"))
    missing = [device for device in devices if device not in present]
    if missing:
        raise ConfigError(
            f"{_OPTION}={value!r}: this host has no {', '.join(missing)}; "
            f"it has: {', '.join(present) or 'no RDMA device'}"
        )
    return devices


def _of_gpu(text: str, gpu: int, value: str | None) -> str:
    try:
        mapping: Any = json.loads(text)
        by_gpu = {int(key): names for key, names in mapping.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{_OPTION}={value!r} is malformed ({error}); {_FORMS}") from None
    if gpu not in by_gpu:
        known = ", ".join(str(number) for number in sorted(by_gpu)) or "none"
        raise ConfigError(f"{_OPTION}={value!r} says nothing of GPU {gpu}, only of: {known}")
    if not isinstance(by_gpu[gpu], str):
        raise ConfigError(f"{_OPTION}={value!r}: the devices of GPU {gpu} are no text; {_FORMS}")
    return str(by_gpu[gpu])
