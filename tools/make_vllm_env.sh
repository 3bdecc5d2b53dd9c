#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment with vLLM in it, or brings it up to date. See make_pinned_env.sh.
#
#   tools/make_vllm_env.sh cpu|gpu VENV_FOLDER [WHEEL]
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $# -lt 2 || $# -gt 3 || ! $1 =~ ^(cpu|gpu)$ ]]; then
    echo "usage: $0 cpu|gpu VENV_FOLDER [WHEEL]" >&2
    exit 2
fi
options=()
no_libnuma=3
if [[ $1 == gpu ]]; then
    options=(--with-requirements)
else
    "${PYTHON:-python3}" -c '
import ctypes, sys
try:
    ctypes.CDLL("libnuma.so.1")
except OSError:
    sys.exit(int(sys.argv[1]))' "$no_libnuma" 2>/dev/null || if [[ $? == "$no_libnuma" ]]; then
        echo "$0: vLLM's CPU build needs libnuma.so.1. Debian, Ubuntu: apt-get install libnuma1;" \
            "Fedora: dnf install numactl-libs" >&2
        exit 1
    fi
fi
exec "$tools/make_pinned_env.sh" "${options[@]}" 3.14 "$2" "$tools/../requirements/vllm-$1.txt" "${@:3}"
