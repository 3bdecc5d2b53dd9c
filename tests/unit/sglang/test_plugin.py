# SPDX-License-Identifier: Apache-2.0
"""How SGLang finds the backend, and what happens where it cannot be used."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sglang.srt.disaggregation import utils
from sglang.srt.disaggregation.base.conn import (
    BaseKVBootstrapServer,
    BaseKVManager,
    BaseKVReceiver,
    BaseKVSender,
    KVArgs,
)
from sglang.srt.disaggregation.utils import KVClassType, TransferBackend
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang.srt.server_args import DISAGG_TRANSFER_BACKEND_CHOICES

from mooncake_connector.errors import UnsupportedError
from mooncake_connector.sglang import compat
from mooncake_connector.sglang.plugin import BACKEND_NAME, activate


@pytest.fixture(scope="module", autouse=True)
def activated() -> None:
    for _ in range(3):
        activate()
        HookRegistry.apply_hooks()


def test_the_name_is_a_choice_and_a_backend_once() -> None:
    assert DISAGG_TRANSFER_BACKEND_CHOICES.count(BACKEND_NAME) == 1
    member = TransferBackend(BACKEND_NAME)
    assert [backend for backend in TransferBackend if backend is member] == [member]
    assert TransferBackend["MOONCAKE_CONNECTOR"] is member
    assert member.name == "MOONCAKE_CONNECTOR"
    assert member not in (TransferBackend.MOONCAKE, TransferBackend.NIXL)


def test_it_leads_to_our_classes_wherever_the_function_was_imported() -> None:
    from sglang.srt.disaggregation import decode, prefill
    from sglang.srt.managers import disagg_service

    member = TransferBackend(BACKEND_NAME)
    bases = {
        KVClassType.MANAGER: BaseKVManager,
        KVClassType.SENDER: BaseKVSender,
        KVClassType.RECEIVER: BaseKVReceiver,
        KVClassType.BOOTSTRAP_SERVER: BaseKVBootstrapServer,
    }
    for module in (utils, prefill, decode, disagg_service):
        for class_type, base in bases.items():
            found = module.get_kv_class(member, class_type)
            assert issubclass(found, base)
            assert found.__module__.startswith("mooncake_connector.sglang.")
            assert not getattr(found, "__abstractmethods__", None)
        assert module.get_kv_class(member, KVClassType.KVARGS) is KVArgs


def test_sglangs_own_registry_does_not_take_the_bootstrap_servers_place() -> None:
    from sglang.srt.managers.disagg_service import rust_server_serves_kv_bootstrap

    assert not rust_server_serves_kv_bootstrap(BACKEND_NAME)


def test_other_backends_are_left_alone() -> None:
    fake = utils.get_kv_class(TransferBackend.FAKE, KVClassType.SENDER)
    assert fake.__module__.startswith("sglang.")


def test_an_unsupported_sglang_is_refused_when_the_classes_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not when the plugin is activated, which happens in every SGLang process."""
    monkeypatch.setattr(compat, "differences", lambda: ["X.y is missing", "Z was (a, b)"])
    activate()
    with pytest.raises(UnsupportedError, match=r"X\.y is missing; Z was \(a, b\)"):
        utils.get_kv_class(TransferBackend(BACKEND_NAME), KVClassType.SENDER)
    assert utils.get_kv_class(TransferBackend.FAKE, KVClassType.SENDER) is not None


def test_activation_is_quiet_where_sglang_has_changed() -> None:
    """In a process of its own, because what it breaks stays broken."""
    program = """
import sglang.srt.server_args as arguments
del arguments.add_disagg_transfer_backend_choices
from mooncake_connector.sglang.plugin import activate
activate()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mooncake_connector is not available in this SGLang" in done.stderr


def test_activation_loads_and_starts_nothing_of_the_backend() -> None:
    """It runs in processes that never transfer anything."""
    program = """
import os, sys
import sglang.srt.disaggregation.utils
from mooncake_connector.sglang.plugin import activate
threads = set(os.listdir("/proc/self/task"))
activate()
assert set(os.listdir("/proc/self/task")) <= threads
ours = [name for name in sys.modules if name.startswith("mooncake_connector.sglang.")]
assert ours == ["mooncake_connector.sglang.plugin"], ours
"""
    subprocess.run([sys.executable, "-c", program], timeout=200, check=True)
