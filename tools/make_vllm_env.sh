#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment with vLLM in it, or brings it up to date.
#
#   tools/make_vllm_env.sh cpu|gpu VENV_FOLDER [WHEEL]
#
# WHEEL is mooncake_connector's own; without it only the pinned packages are installed.
# PYTHON names the interpreter (default python3). Nothing is done for pinned packages that were
# installed by an earlier run, so calling this before every test run costs less than a second.
set -euo pipefail

if [[ $# -lt 2 || $# -gt 3 || ! $1 =~ ^(cpu|gpu)$ ]]; then
    echo "usage: $0 cpu|gpu VENV_FOLDER [WHEEL]" >&2
    exit 2
fi
build=$1
venv=$2
wheel=${3:-}
python=${PYTHON:-python3}
pins="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/requirements/vllm-$build.txt"
torch_index=https://download.pytorch.org/whl/cpu

# What the pinned vLLM has wheels for; pip's own words about it are a page long.
if ! found=$("$python" -c '
import platform, sys
print(".".join(map(str, sys.version_info[:2])), "on", platform.machine())
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14)
         or platform.machine() not in ("x86_64", "aarch64"))' 2>/dev/null); then
    echo "$0: vLLM is pinned for Python 3.11 to 3.14 on x86_64 and aarch64; $python is ${found:-missing}." \
        "Install one of these and start anew with it: make distclean, then make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi
if [[ ! -x $venv/bin/python ]]; then
    "$python" -m venv "$venv"
fi

if [[ $build == cpu ]] && ! "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    echo "$0: vLLM's CPU build needs libnuma.so.1. Debian, Ubuntu: apt-get install libnuma1;" \
        "Fedora: dnf install numactl-libs" >&2
    exit 1
fi

# The stamp is written last, so that an interrupted installation is done again.
stamp=$venv/.pins
if ! cmp -s "$pins" "$stamp"; then
    install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$pins")
    if [[ $build == gpu ]]; then
        "${install[@]}"
    elif ! "${install[@]}" --no-deps; then
        # Most machines do not know an index that has torch's CPU build.
        echo "$0: trying again with $torch_index for torch's CPU build" >&2
        "${install[@]}" --no-deps --extra-index-url "$torch_index"
    fi
    cp "$pins" "$stamp"
fi
if [[ -n $wheel ]]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --force-reinstall "$wheel"
fi
