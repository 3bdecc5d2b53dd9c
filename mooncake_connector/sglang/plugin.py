# SPDX-License-Identifier: Apache-2.0
"""What SGLang calls at start in each of its processes, through ``sglang.srt.plugins``.

SGLang has a list of backend names, an enumeration of backends and a function that maps these to
classes. The list can be extended; the other two have no interface for it, so the enumeration gets
a member and the function a hook, which SGLang's own registry puts in place everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

BACKEND_NAME = "mooncake_connector"
_MEMBER = BACKEND_NAME.upper()
_GET_CLASS = "sglang.srt.disaggregation.utils.get_kv_class"

logger = logging.getLogger(__name__)


def activate() -> None:
    """Makes ``--disaggregation-transfer-backend mooncake_connector`` known to SGLang.

    May be called any number of times. It must never raise: SGLang calls it in every process of the
    environment, also of servers that do not use this backend. So an unsupported version is
    reported when the backend's classes are asked for, which only its users do.
    """
    try:
        from sglang.srt.disaggregation.utils import TransferBackend
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType
        from sglang.srt.server_args import (
            DISAGG_TRANSFER_BACKEND_CHOICES,
            add_disagg_transfer_backend_choices,
        )

        if BACKEND_NAME not in DISAGG_TRANSFER_BACKEND_CHOICES:
            add_disagg_transfer_backend_choices([BACKEND_NAME])
        if BACKEND_NAME not in TransferBackend._value2member_map_:
            _add_member(TransferBackend)
            HookRegistry.register(_GET_CLASS, _get_class, HookType.AROUND)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        logger.warning(
            "--disaggregation-transfer-backend %s is not available in this SGLang: %r",
            BACKEND_NAME,
            error,
        )


def _add_member(enumeration: Any) -> None:
    """Adds our member to an `enum.Enum`, which has no interface for that."""
    member = object.__new__(enumeration)
    member._name_ = _MEMBER
    member._value_ = BACKEND_NAME
    member.__objclass__ = enumeration
    member._sort_order_ = len(enumeration._member_names_)
    enumeration._member_names_.append(_MEMBER)
    enumeration._member_map_[_MEMBER] = member
    enumeration._value2member_map_[BACKEND_NAME] = member


def _get_class(original: Callable[..., Any], backend: Any, class_type: Any) -> Any:
    """Our classes for our member; everything else is left to SGLang."""
    if getattr(backend, "value", None) != BACKEND_NAME or class_type.value == "kvargs":
        return original(backend, class_type)
    from mooncake_connector.sglang.compat import require_supported_sglang

    # Before the modules that need what only these versions have.
    require_supported_sglang()
    from mooncake_connector.sglang.bootstrap import BootstrapServer
    from mooncake_connector.sglang.manager import Manager
    from mooncake_connector.sglang.receiver import Receiver
    from mooncake_connector.sglang.sender import Sender

    return {
        "manager": Manager,
        "sender": Sender,
        "receiver": Receiver,
        "bootstrap_server": BootstrapServer,
    }[class_type.value]
