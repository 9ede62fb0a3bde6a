# Two commands matter: `make demo` and `make test`. Each makes its own environment and is cheap to run again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test fast lint format types contracts images locks clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.ferry ## Set up Ferry and adapt a model to rendered faces (about 5 minutes on 2 cores)
	$(BIN)/ferry demo

# Tests run in one process for each core, four at most; servers and whole pipelines want the machine for themselves.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

test: $(VENV)/.ferry-test ## Set up and run every check and every test
	$(MAKE) --no-print-directory lint types contracts
	$(BIN)/python -m pytest $(PARALLEL) -m "not integration"
	$(BIN)/python -m pytest -m integration

fast: $(VENV)/.ferry-test ## Run the fast tests only (under 90 seconds)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not integration"

lint: $(VENV)/.ferry-test ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ferry-test ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Types and import contracts are checked on the package as it is installed, where `components` is called `ferry`.
CHECKED := build/check
CHECK := PYTHONPATH=$(CHECKED) MYPYPATH=$(CHECKED)

$(CHECKED)/.installed: pyproject.toml $(shell find components pipelines -not -path '*__pycache__*') | $(VENV)/.ferry-test
	@rm -rf $(CHECKED) build/lib
	$(BIN)/python -m pip install --quiet --no-deps --target $(CHECKED) .
	@touch $@

types: $(CHECKED)/.installed ## Check types
	$(CHECK) $(BIN)/mypy -p ferry

contracts: $(CHECKED)/.installed ## Check which room may import which
	$(CHECK) $(BIN)/lint-imports

images: ## Build the container images slim, cpu and cuda (FERRY_IMAGE_REGISTRY=registry/folder names them)
	$(PYTHON) images/build.py build

locks: $(VENV)/.ferry-test ## Write the lock files of the images anew
	$(BIN)/python images/lock.py

clean: ## Remove the environment and everything that the demo made
	rm -rf $(VENV) .ferry build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# A half-made environment must not look like a whole one the next time.
$(VENV)/bin/python:
	@command -v $(PYTHON) > /dev/null || { echo "Expected \`PYTHON\` to be an installed Python 3.11 or newer, but got \
	'$(PYTHON)', which is not there. Install Python, or run: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Expected \`PYTHON\` to be Python 3.11 or \
	newer, but got '$$($(PYTHON) --version 2>&1)'. Run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -f $(VENV)/bin/python; echo "Expected \`PYTHON\` to be able to make an environment, but got \
	the error above. On Debian and Ubuntu run: apt install python3-venv; then: make $(MAKECMDGOALS)" >&2; exit 2; }

$(VENV)/.ferry: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Ferry and what it needs into $(VENV): some minutes and gigabytes, without further messages."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.ferry-test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Ferry and what it and its tests need into $(VENV): some minutes and gigabytes, without further messages."
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@ $(VENV)/.ferry
