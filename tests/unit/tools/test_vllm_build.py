# SPDX-License-Identifier: Apache-2.0
"""Which vLLM the demo gets, and what a machine that cannot have it is told."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "vllm_build.py"
MAKE_ENV = ROOT / "tools" / "make_vllm_env.sh"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllm_build", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("gpu", "gpu_memory", "build", "note"),
    [
        (False, False, "cpu", False),
        (False, True, "cpu", False),
        (True, True, "gpu", False),
        (True, False, "cpu", True),
    ],
)
def test_the_gpu_build_needs_a_gpu_and_a_way_to_its_memory(
    tool: ModuleType, gpu: bool, gpu_memory: bool, build: str, note: bool
) -> None:
    chosen, said = tool.choose(gpu, gpu_memory)
    assert chosen == build
    assert (said is not None) == note


def test_a_gpu_is_known_by_its_device_file(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvidiactl").touch()
    assert not tool.has_nvidia_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert tool.has_nvidia_gpu(tmp_path)


@pytest.mark.parametrize(
    ("script", "found"),
    [("echo 'GPU 0: H200 (UUID: GPU-1)'", True), ("echo 'No devices'", False), ("exit 9", False)],
)
def test_a_gpu_is_known_by_nvidia_smi(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: bool
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.has_nvidia_gpu(tmp_path) == found


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_this_machine_gets_one_of_them() -> None:
    done = run_tool()
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("cpu\n", "gpu\n")


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_ones_own_choice_is_taken(build: str) -> None:
    assert run_tool(build).stdout == f"{build}\n"


def test_a_build_that_does_not_exist_is_refused() -> None:
    done = run_tool("tpu")
    assert done.returncode == 2
    assert "VLLM_BUILD=tpu is none of cpu, gpu" in done.stderr


def make_env(venv: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MAKE_ENV, "cpu", venv],
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_without_wheels_is_named_with_its_cure(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python3.15", "echo 3.15 on riscv64; exit 1")
    done = make_env(tmp_path / "venv", python)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Python 3.11 to 3.14 on x86_64 and aarch64" in line
    assert f"{python} is 3.15 on riscv64" in line
    assert "make distclean, then make PYTHON=" in line
    assert not (tmp_path / "venv").exists()


def test_a_python_that_is_not_there_is_named_with_its_cure(tmp_path: Path) -> None:
    done = make_env(tmp_path / "venv", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / 'nowhere'} is missing" in line


def test_a_missing_libnuma_is_named_with_its_cure(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python3.11", "exit 3")
    done = make_env(tmp_path / "venv", python)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "needs libnuma.so.1" in line and "apt-get install libnuma1" in line
