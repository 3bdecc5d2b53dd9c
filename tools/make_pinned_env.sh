#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment from a complete list of pinned packages, or brings it up to date.
#
#   tools/make_pinned_env.sh VENV_FOLDER PINS [WHEEL]
#
# WHEEL is mooncake_connector's own; without it only the pinned packages are installed.
# PYTHON names the interpreter (default python3.11). Nothing is done for pinned packages that were
# installed by an earlier run, so calling this before every test run costs less than a second.
set -euo pipefail

if [[ $# -lt 2 || $# -gt 3 ]]; then
    echo "usage: $0 VENV_FOLDER PINS [WHEEL]" >&2
    exit 2
fi
venv=$1
pins=$2
wheel=${3:-}
python=${PYTHON:-python3.11}
torch_index=https://download.pytorch.org/whl/cpu

if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    echo "$0: $python is not Python 3.11, for which $pins is pinned; set PYTHON" >&2
    exit 1
fi
if [[ ! -x $venv/bin/python ]]; then
    "$python" -m venv "$venv"
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
