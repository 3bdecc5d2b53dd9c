# SPDX-License-Identifier: Apache-2.0
"""What is installed, what importing it costs, and what a build without a compiler says."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Notes every module that anything tries to import, found or not: most are not installed here.
IMPORT_PROBE = """
import importlib.abc, json, os, sys, threading

class Recorder(importlib.abc.MetaPathFinder):
    names = []
    def find_spec(self, name, path=None, target=None):
        self.names.append(name.partition(".")[0])

import numpy
before = len(os.listdir("/proc/self/task"))
sys.meta_path.insert(0, Recorder())
import mooncake_connector
mapped = sorted({line.split("/")[-1].strip() for line in open("/proc/self/maps") if "/" in line})
print(json.dumps({
    "tried": sorted(set(Recorder.names)),
    "new_threads": len(os.listdir("/proc/self/task")) - before,
    "mapped": mapped,
}))
"""


def run_python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    # -P: the repository's folder must not hide the installed package.
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def probe() -> dict[str, object]:
    done = run_python("-c", IMPORT_PROBE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def installed_files() -> set[str]:
    files = importlib.metadata.files("mooncake-connector")
    assert files is not None
    return {str(path) for path in files}


@pytest.mark.parametrize("module", ["torch", "vllm", "rich", "prometheus_client", "asyncio"])
def test_import_leaves_heavy_modules_alone(probe: dict[str, list[str]], module: str) -> None:
    assert "mooncake_connector" in probe["tried"]
    assert module not in probe["tried"]


def test_import_starts_no_thread(probe: dict[str, int]) -> None:
    assert probe["new_threads"] == 0


def test_extension_is_loaded_and_needs_no_driver_library(probe: dict[str, list[str]]) -> None:
    mapped = probe["mapped"]
    assert any(name.startswith("_engine.") for name in mapped)
    foreign = ("libibverbs", "libmlx5", "libcuda", "libcudart", "libnuma")
    assert [name for name in mapped if name.startswith(foreign)] == []


def test_wheel_is_typed(installed_files: set[str]) -> None:
    assert "mooncake_connector/py.typed" in installed_files
    extensions = [name for name in installed_files if name.endswith(".so")]
    assert len(extensions) >= 2
    for extension in extensions:
        stub = extension.partition(".")[0] + ".pyi"
        assert stub in installed_files, f"{extension} has no stub"


def test_wheel_holds_the_package_and_nothing_else(installed_files: set[str]) -> None:
    folders = {name.partition("/")[0] for name in installed_files}
    version = importlib.metadata.version("mooncake-connector")
    script = {name for name in folders if name == ".."}
    assert folders - script == {"mooncake_connector", f"mooncake_connector-{version}.dist-info"}
    assert not [name for name in installed_files if name.endswith((".cpp", ".hpp"))]
    assert [name for name in installed_files if name.endswith("licenses/LICENSE")]


def test_vllm_finds_the_plugin_and_its_absence_does_no_harm() -> None:
    points = importlib.metadata.entry_points(group="vllm.general_plugins")
    (point,) = [point for point in points if point.name == "mooncake_connector"]
    if importlib.util.find_spec("vllm") is None:
        point.load()()


def test_command_explains_itself() -> None:
    command = Path(sys.executable).with_name("mooncake-connector")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout


def test_readme_shows_the_options_as_they_are() -> None:
    done = run_python(str(ROOT / "tools" / "config_table.py"), "--check", str(ROOT / "README.md"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_compiler_is_named_with_its_cure(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    done = run_python(str(ROOT / "tools" / "check_host.py"), env=environment)
    assert done.returncode == 1
    assert "A C++20 compiler is needed" in done.stderr
    assert "apt-get install g++" in done.stderr


def test_compiler_without_cxx20_is_named_with_its_cure(tmp_path: Path) -> None:
    old = tmp_path / "old-c++"
    old.write_text("#!/bin/sh\necho \"error: unrecognized option '-std=c++20'\"\nexit 1\n")
    old.chmod(0o755)
    done = run_python(str(ROOT / "tools" / "check_host.py"), env={**os.environ, "CXX": str(old)})
    assert done.returncode == 1
    assert f"{old} cannot build C++20 programs" in done.stderr
    assert "unrecognized option" in done.stderr


def test_build_without_compiler_says_so(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    tools = Path(sys.executable).parent
    for tool in ("cmake", "ninja"):
        if not (tools / tool).exists():
            pytest.skip(f"{tool} is not installed beside {sys.executable}")
        (binaries / tool).symlink_to(tools / tool)
    done = subprocess.run(
        [binaries / "cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path / "build"],
        env={"PATH": str(binaries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs a C++20 compiler and found none" in " ".join(done.stderr.split())


def test_every_example_is_a_program_that_parses() -> None:
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert examples
    for example in examples:
        assert ast.get_docstring(ast.parse(example.read_text())), f"{example.name} says nothing"
