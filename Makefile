# make demo   two DeltaNets on parity: check, analyse, compile, train, compare (about a minute after the set-up)
# make test   lint, format, types, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt
SOURCES := rnnc backends grammar stdlib tests examples benchmarks setup.py
SETTINGS := pyproject.toml setup.py constraints.txt Makefile

export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint types format clean

demo: $(VENV)/demo.stamp
	@$(BIN)/rnnc demo

test: $(VENV)/test.stamp lint types
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal
	@echo "make test: lint, format, types and tests passed"

lint: $(VENV)/test.stamp
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES) || { echo "run 'make format'"; exit 1; }

format: $(VENV)/test.stamp
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

# The type checker follows files, not the package-dir mapping: it gets a tree of links in the installed layout.
types: $(VENV)/test.stamp
	@rm -rf .mypy_src && mkdir -p .mypy_src/rnnc
	@for f in rnnc/*; do ln -s ../../$$f .mypy_src/rnnc/; done; rm -rf .mypy_src/rnnc/__pycache__
	@ln -s ../../backends ../../grammar ../../stdlib .mypy_src/rnnc/
	@MYPYPATH=.mypy_src $(BIN)/mypy --no-error-summary -p rnnc

# torch goes first and alone: it is the one large download, and its version decides the others'.
$(VENV)/demo.stamp: $(SETTINGS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rnnc needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Set PYTHON=..." >&2; exit 2; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing torch (once)"
	@$(PIP) setuptools torch==2.13.0
	@echo "installing rnnc"
	@$(PIP) --no-build-isolation -e '.[train]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	@echo "installing what the tests need"
	@$(PIP) --no-build-isolation -e '.[conformance]'
	@$(PIP) --no-deps xlstm==2.0.6 mlstm_kernels==2.0.6
	@touch $@

clean:
	rm -rf build dist out .mypy_src .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
