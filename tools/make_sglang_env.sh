#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment in which the SGLang adapter is tested, or brings it up to date.
#
#   tools/make_sglang_env.sh VENV_FOLDER [WHEEL]
#
# See make_pinned_env.sh. SGLang does not start without a GPU as it comes from PyPI; tools/sglang_cpu
# has what it lacks, and this environment alone gets it.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $# -lt 1 || $# -gt 2 ]]; then
    echo "usage: $0 VENV_FOLDER [WHEEL]" >&2
    exit 2
fi
"$tools/make_pinned_env.sh" 3.11 "$1" "$tools/../requirements/sglang-cpu.txt" "${@:2}"
packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -r "$tools/sglang_cpu/sgl_kernel" "$packages/"
"$1/bin/python" "$tools/sglang_cpu/declare_torchvision_ops.py"
