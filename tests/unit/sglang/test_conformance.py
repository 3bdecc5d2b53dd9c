# SPDX-License-Identifier: Apache-2.0
"""Whether this SGLang has all that the adapter uses, and the adapter all that SGLang uses.

A new release that moved something fails here with a list, not in a server with a stack trace.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import sglang
from sglang.srt.disaggregation import decode, prefill, role_switch, utils
from sglang.srt.disaggregation.common import conn

from mooncake_connector.sglang import compat
from mooncake_connector.sglang.manager import Manager
from mooncake_connector.sglang.receiver import Receiver
from mooncake_connector.sglang.sender import Sender

# Attributes of the others' objects that only other backends have, which SGLang asks for first.
OPTIONAL_OF_MANAGER = {
    "deregister_buffer_to_engine",
    "register_buffer_to_engine",
    "set_kv_buffer_tensors",
    "enable_staging",
}
# Set in the constructor of SGLang's base class or in our own.
INSTANCE_OF_MANAGER = {
    "kv_args",
    "prefill_info_table",
    "transfer_infos",
    "enable_all_cp_ranks_for_transfer",
    "enable_deferred_decode_kv_release",
    "_staging_handler",
}
INSTANCE_OF_RECEIVER = {
    "abort_notified",
    "bootstrap_infos",
    "conclude_state",
    "kv_mgr",
    "bootstrap_addr",
    "bootstrap_room",
}
INSTANCE_OF_SENDER = {"kv_mgr", "_early_send_wait_event"}


def used(pattern: str, *modules: ModuleType) -> set[str]:
    """Attributes that SGLang's source takes of what the pattern matches."""
    texts = [Path(inspect.getfile(module)).read_text() for module in modules]
    return {name for text in texts for name in re.findall(pattern + r"\.(\w+)", text)}


def lacking(cls: type, names: set[str], of_instance: set[str]) -> list[str]:
    return sorted(name for name in names - of_instance if not hasattr(cls, name))


def test_the_release_is_one_that_was_tested() -> None:
    assert sglang.__version__ in compat.TESTED_VERSIONS


def test_sglang_has_what_the_adapter_uses() -> None:
    assert compat.differences() == []


def test_differences_are_found_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: without this it could be one that finds nothing."""
    monkeypatch.delattr(conn.CommonKVManager, "_resolve_rank_mapping")
    monkeypatch.delattr(utils, "KVClassType")
    found = compat.differences()
    assert any("CommonKVManager._resolve_rank_mapping is missing" in one for one in found)
    assert any("KVClassType.SENDER is missing" in one for one in found)


def test_changed_parameters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_abort_release_safe(self: object, room: int) -> bool:
        return True

    monkeypatch.setattr(conn.CommonKVManager, "is_abort_release_safe", is_abort_release_safe)
    (found,) = compat.differences()
    assert "is_abort_release_safe('self', 'room')" in found


def test_the_adapter_has_what_the_schedulers_use() -> None:
    schedulers = (decode, prefill, role_switch)
    manager = used(r"(?:kv_manager|kv_mgr|\bkm)", *schedulers) - OPTIONAL_OF_MANAGER
    receiver = used(r"kv_receiver", decode, conn)
    sender = used(r"(?:disagg_kv_sender|\bsender)", prefill)
    problems = [
        *(f"Manager.{name}" for name in lacking(Manager, manager, INSTANCE_OF_MANAGER)),
        *(f"Receiver.{name}" for name in lacking(Receiver, receiver, INSTANCE_OF_RECEIVER)),
        *(f"Sender.{name}" for name in lacking(Sender, sender, INSTANCE_OF_SENDER)),
    ]
    assert problems == []
    # The patterns still find what they are for.
    assert {"send_metadata", "failure_exception"} <= receiver
    assert {"failure_exception", "send", "init"} <= sender
    assert {"try_ensure_parallel_info", "is_abort_release_safe"} <= manager


def test_methods_take_what_sglangs_own_take() -> None:
    for ours, theirs in (
        (Sender, conn.BaseKVSender),
        (Receiver, conn.BaseKVReceiver),
        (Manager, conn.BaseKVManager),
    ):
        for name, method in vars(theirs).items():
            if inspect.isfunction(method):
                expected = list(inspect.signature(method).parameters)
                found = list(inspect.signature(getattr(ours, name)).parameters)
                assert found[: len(expected)] == expected, f"{ours.__name__}.{name}"
