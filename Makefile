# lmo-transfer: `make demo` runs the main job, `make test` the tests; both make .venv first.
PYTHON ?= python3
TORCH_INDEX ?=
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# OMP and MKL would take every core in each of several processes otherwise; and hundreds of processes
# would each compile what they import, where bytecode must not be written.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.PHONY: help demo test slow browser slurm postgres check format clean
help:
	@echo 'make demo    install into .venv and run the main job (TORCH_INDEX=URL: take torch from there)'
	@echo 'make test    install the test tools too and run the tests, in 5 minutes on 2 cores'
	@echo 'make slow    run the tests that take long: kills, torn journals, compiling'
	@echo 'make browser open reports in headless Chromium, where there is one'
	@echo 'make slurm   train on the SLURM that answers to sinfo, where there is one'
	@echo 'make postgres tune with a PostgreSQL server that the tests start, where there is one'
	@echo 'make check   linters, types, import arrows'
	@echo 'make format  format the code'
	@echo 'make clean   remove .venv and caches; studies/ stays'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "lmo-transfer needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1): try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the venv module: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# Torch alone from that index: it need not have the pinned versions of what torch depends on.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing lmo-transfer into $(VENV) (plain pip on Linux brings the CUDA build of torch, about 2.7 GB)'
	@if [ -n "$(TORCH_INDEX)" ]; then $(PIP) install -q $(PIP_FLAGS) -c constraints.txt --no-deps --index-url '$(TORCH_INDEX)' torch; fi
	@$(PIP) install -q $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo 'installing the test tools'
	@$(PIP) install -q $(PIP_FLAGS) -c constraints.txt -e '.[dev,postgres]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/lmo-transfer run digits-mlp

PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -q -n 2
# This hook checks shapes in transfer (tests/conftest.py says when); it breaks torch.compile.
SHAPES := --jaxtyping-packages=transfer,beartype.beartype
test: $(VENV)/.installed-dev
	$(PYTEST) --dist worksteal -m 'not slow and not compile and not browser and not slurm and not postgres' $(SHAPES)

slow: $(VENV)/.installed-dev
	$(PYTEST) --maxschedchunk 1 -m 'slow or compile'

browser: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -m browser

# Most of its time is waiting.
slurm: $(VENV)/.installed-dev
	$(PYTEST) -n 4 -m slurm

postgres: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -m postgres

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
