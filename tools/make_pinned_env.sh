#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment from a list of pinned packages, or brings it up to date.
#
#   tools/make_pinned_env.sh [--with-requirements] NEWEST_PYTHON VENV_FOLDER PINS [WHEEL]
#
# PINS is complete, unless --with-requirements says that what the packages require comes along.
# NEWEST_PYTHON is the newest for which they have wheels (3.13); 3.11 is the oldest. WHEEL is
# mooncake_connector's own; without it only the pinned packages are installed. The variable PYTHON
# names the interpreter (default python3). Nothing is done for pinned packages that were installed
# by an earlier run, so calling this before every test run costs less than a second.
set -euo pipefail

options=(--no-deps)
if [[ ${1:-} == --with-requirements ]]; then
    options=()
    shift
fi
if [[ $# -lt 3 || $# -gt 4 ]]; then
    echo "usage: $0 [--with-requirements] NEWEST_PYTHON VENV_FOLDER PINS [WHEEL]" >&2
    exit 2
fi
newest=$1
venv=$2
pins=$3
wheel=${4:-}
python=${PYTHON:-python3}
torch_index=https://download.pytorch.org/whl/cpu

# pip's own words about it are a page long.
if ! found=$("$python" -c '
import platform, sys
newest = tuple(map(int, sys.argv[1].split(".")))
print(".".join(map(str, sys.version_info[:2])), "on", platform.machine())
sys.exit(not (3, 11) <= sys.version_info[:2] <= newest
         or platform.machine() not in ("x86_64", "aarch64"))' "$newest" 2>/dev/null); then
    echo "$0: $(basename "$pins") is pinned for Python 3.11 to $newest on x86_64 and aarch64; $python is" \
        "${found:-missing}. Install one of these and start anew with it:" \
        "make distclean, then make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
if [[ ! -x $venv/bin/python ]]; then
    "$python" -m venv "$venv"
fi

# The stamp is written last, so that an interrupted installation is done again.
stamp=$venv/.pins
if ! cmp -s "$pins" "$stamp"; then
    install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check
        "${options[@]}" --requirement "$pins")
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
