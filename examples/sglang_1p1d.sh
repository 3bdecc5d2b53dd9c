#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One prefill and one decode server of SGLang on this host, and sglang-router before them.
#
#   examples/sglang_1p1d.sh MODEL [SGLANG_OPTION...]      stop with Ctrl-C
#
# Wants sglang, sglang-router and mooncake_connector in the Python environment that is active.
# SGLang's options are given to both servers: --page-size 1, which is its default, needs no change.
# PREFILL_GPU and DECODE_GPU name the GPUs (0 and 1); PORT is the router's port (8000).
set -euo pipefail

if [[ $# -lt 1 ]]; then
    sed -n '3,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
model=$1
shift
port=${PORT:-8000}
prefill=http://127.0.0.1:8100
decode=http://127.0.0.1:8200
bootstrap=8998

# Every child gets the signal that ends this script, and none outlives it.
trap 'trap - EXIT; kill 0' EXIT

serve() {
    local mode=$1 server_port=$2
    shift 2
    python -m sglang.launch_server --model-path "$model" --host 127.0.0.1 --port "$server_port" \
        --disaggregation-mode "$mode" --disaggregation-transfer-backend mooncake_connector \
        --disaggregation-bootstrap-port "$bootstrap" "$@" &
}

CUDA_VISIBLE_DEVICES=${PREFILL_GPU-0} serve prefill 8100 "$@"
CUDA_VISIBLE_DEVICES=${DECODE_GPU-1} serve decode 8200 "$@"

for server in "$prefill" "$decode"; do
    until curl --silent --fail --output /dev/null "$server/health"; do
        # A server that has ended will never answer.
        if [[ $(jobs -r | wc -l) -lt 2 ]]; then
            echo "$0: a server ended before it answered; see its output above" >&2
            exit 1
        fi
        sleep 2
    done
done

python -m sglang_router.launch_router --pd-disaggregation --host 127.0.0.1 --port "$port" \
    --prefill "$prefill" "$bootstrap" --decode "$decode" \
    --prometheus-host 127.0.0.1 &
echo "ask http://127.0.0.1:$port/v1/completions"
wait -n
