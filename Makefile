# hguard: every command a user or CI runs. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
TORCH_VERSION ?= 2.13.0
# Packages beside the core; `make setup EXTRAS=offline` leaves the development tools out.
EXTRAS ?= offline,dev

# Without an NVIDIA driver the CPU build of torch is installed: the CUDA build is several GB larger. On Linux the two
# differ in the local version label; elsewhere the plain version is the CPU build.
HAS_CUDA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
IS_LINUX := $(filter Linux,$(shell uname -s))
TORCH ?= torch==$(TORCH_VERSION)$(if $(HAS_CUDA),,$(if $(IS_LINUX),+cpu))
# Asked only when the configured package index has no CPU build.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup vllm serve test soak test-vllm test-gpu e2e-docker check train bench clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade "pip>=24"
	$(PY) -m pip install -q "$(TORCH)" || $(PY) -m pip install -q "$(TORCH)" --extra-index-url $(TORCH_CPU_INDEX)
	$(PY) -m pip install -q -c <(echo "torch==$(TORCH_VERSION)") -e ".[$(EXTRAS)]"
	@touch $@
SHELL := /bin/bash

setup: $(VENV)/.done ## virtual environment and dependencies

$(VENV)/.vllm: $(VENV)/.done deploy/install_vllm.py
	$(PY) deploy/install_vllm.py
	@touch $@

vllm: $(VENV)/.vllm ## add vLLM to the virtual environment: its CUDA build where there is a driver, else its CPU build

serve: setup $(if $(filter vllm,$(HGUARD_ENGINE)),vllm) ## serve the default model and its probe on 127.0.0.1:8000 (HGUARD_* variables pass through)
	$(PY) -m service

test: setup ## every test that needs neither a GPU nor vLLM
	$(PY) -m pytest -m "not gpu" --ignore tests/vllm --ignore tests/docker $(PYTEST_ARGS)

soak: setup ## five minutes of load, misbehaving clients included: flat memory, descriptors and tasks (SOAK_SECONDS)
	SOAK_SECONDS=$(or $(SOAK_SECONDS),300) $(PY) -m pytest tests/soak -s $(PYTEST_ARGS)

test-vllm: vllm ## the exactness suite on real vLLM
	$(PY) -m pytest tests/vllm -m "not gpu" $(PYTEST_ARGS)

test-gpu: vllm ## the exactness suite on CUDA
	$(PY) -m pytest tests/gpu -m gpu $(PYTEST_ARGS)

e2e-docker: setup ## deploy/compose.yaml and its CPU variant on a Docker daemon that the test starts (root; Debian's docker.io and debootstrap; else skipped)
	$(PY) -m pytest tests/docker -s $(PYTEST_ARGS)

check: setup ## ruff, mypy strict, import rules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

train: setup ## refresh a probe: make train ARGS="--questions FILE --out DIR"
	$(PY) offline/train_probe.py $(ARGS)

# Those of vLLM need it.
VLLM_BENCHES := $(wildcard benchmarks/bench_*vllm*.py)
BENCHES = $(filter-out $(if $(wildcard $(VENV)/.vllm),,$(VLLM_BENCHES)),$(wildcard benchmarks/bench_*.py))

bench: setup ## every benchmark on the CPU; those of vLLM after `make vllm`
	$(if $(wildcard $(VENV)/.vllm),,@echo "left out, they need make vllm: $(VLLM_BENCHES)")
	for script in $(BENCHES); do $(PY) $$script || exit 1; done

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
