# Every target makes its own environment when there is none. `make PYTHON=python3.12 quickstart` picks another Python;
# `make VENV=/path/to/venv test` another place for it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart serve check test bench proto clean

quickstart: $(VENV)/.run
	@$(BIN)/taskloom quickstart

serve: $(VENV)/.run
	@$(BIN)/taskloom serve

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.typing $(BIN)/lint-imports --no-cache
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not integration" --numprocesses auto --dist loadscope

test: check
	$(BIN)/python -m pytest -q -m integration

bench: $(VENV)/.run
	$(BIN)/taskloom bench

proto: $(VENV)/.dev
	$(BIN)/python -m venv $(VENV)/protoc
	$(VENV)/protoc/bin/pip install --quiet grpcio-tools==1.76.0
	PYTHON=$(CURDIR)/$(VENV)/protoc/bin/python core/wire/generate.sh

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What it takes to serve; the stamp of the development install counts as well, because it holds more.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Taskloom into $(VENV) (about 1 GB, a few minutes the first time) ..."
	@$(INSTALL) --editable '.[local,server]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.run $@
