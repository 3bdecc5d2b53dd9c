# SPDX-License-Identifier: Apache-2.0
"""Says which build of vLLM the demo should use on this machine: prints "cpu" or "gpu".

    tools/vllm_build.py [cpu|gpu]       a choice of one's own is taken as it is

The GPU build keeps its KV in the GPU's memory, so it is taken only where there is an NVIDIA GPU and
the installed mooncake_connector moves such memory. Where only the latter is missing, that is said.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

BUILDS = ("cpu", "gpu")


def has_nvidia_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether a GPU's device file is here, or nvidia-smi (as under WSL) lists one."""
    if any(devices.glob("nvidia[0-9]*")):
        return True
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def moves_gpu_memory() -> bool:
    """Whether the installed engine takes memory of a GPU at all."""
    from mooncake_connector import Engine, MooncakeConnectorError, UnsupportedError

    with Engine() as engine:
        try:
            engine.register_memory((4096, 4096, 0))
        except UnsupportedError:
            return False
        except MooncakeConnectorError:
            pass  # it only dislikes this address
    return True


def choose(gpu: bool, gpu_memory: bool) -> tuple[str, str | None]:
    """The build, and what the user should know of the choice."""
    if gpu and not gpu_memory:
        return "cpu", (
            "there is an NVIDIA GPU, but this mooncake_connector moves KV in host memory only, so "
            "vLLM's CPU build is used (VLLM_BUILD=gpu insists on the other)"
        )
    return ("gpu" if gpu else "cpu"), None


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if wanted and wanted not in BUILDS:
        print(f"error: VLLM_BUILD={wanted} is none of {', '.join(BUILDS)}", file=sys.stderr)
        return 2
    note = None
    if not wanted:
        gpu = has_nvidia_gpu()
        wanted, note = choose(gpu, gpu and moves_gpu_memory())
    if note:
        print(f"note: {note}", file=sys.stderr)
    print(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
