# comodal. `make demo` and `make test` are each complete on a machine that has Python 3.11+ and make:
# they create .venv and install what is missing. `make help` lists the rest.
#
#   PYTHON=python3.12       the interpreter from which .venv is made
#   GPU=1                   the GPU build of torch, and the newest that fits, instead of the pinned one
#   TORCH=torch==2.9.1      any other torch
#   TORCH_ARGS=...          further arguments of pip for torch alone. On common x86-64 Linux machines PyPI's torch is the CUDA
#                           build; it also runs without a GPU, only larger. For a CPU-only file give pip's own index option here.
# They count when .venv is made: `make clean` first, to change them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON     ?= python3
VENV       ?= .venv
TORCH_ARGS ?=
ifdef GPU
TORCH ?= torch>=2.8
else
TORCH ?= torch==2.13.0
endif

BIN   := $(VENV)/bin
STAMP := $(VENV)/installed
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Waiting OpenMP threads sleep: on a busy machine spinning ones make a step many times slower.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT  := 0
# Arguments for pytest, for instance `make test ARGS="-k resume"`; WORKERS=0 runs the tests in one process, as a debugger needs it.
ARGS    ?=
WORKERS ?= 2
# One thread for each worker: two workers fill two cores, and sums have one order on every machine. Files are not torn apart,
# since the tests of one share what they trained.
PYTEST = OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help setup demo test test-slow lint format types docs bench bench-information check public-names clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

setup: $(STAMP) ## make .venv and install comodal in it

# The stamp is written last: an installation that failed half-way is taken up again by the next `make`.
$(STAMP): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("comodal needs Python 3.11 or newer; got " + sys.version.split()[0] + ". Give another one: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV): a minute or two, once."
	$(PYTHON) -m venv $(VENV)
	grep -v '^torch==' constraints-cpu.txt > $(VENV)/constraints.txt
	$(PIP) -c $(VENV)/constraints.txt $(TORCH_ARGS) '$(TORCH)'
	$(PIP) -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## the whole story on synthetic patients, a few minutes: cohort, training, table, page in ./demo
	$(BIN)/comodal demo --out demo

test: $(STAMP) ## the tests, a few minutes
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: $(STAMP) ## the slow tests
	$(PYTEST) -m slow $(ARGS)

lint: $(STAMP) ## ruff and the layers of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

docs: $(STAMP) ## the documents hold: links, commands, examples
	$(BIN)/python -m pytest tests/architecture/test_documents.py $(ARGS)

bench: $(STAMP) ## time and memory of a training step, of all-pairs critics, of predicting from all subsets, of ciml, of cached latents, of image and report, and of reading data
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/critics.py
	$(BIN)/python benchmarks/subsets.py
	$(BIN)/python benchmarks/ciml.py
	$(BIN)/python benchmarks/guidance.py
	$(BIN)/python benchmarks/image_text.py
	$(BIN)/python benchmarks/data.py

bench-information: $(STAMP) ## the certificate of the information measures, into docs/information.md; at most half an hour
	$(BIN)/python benchmarks/information.py

public-names: $(STAMP) ## accept the public names as they are now
	$(BIN)/python tests/architecture/test_public_names.py

check: lint types $(STAMP) ## all that CI runs
	$(BIN)/python -m pip check
	@$(BIN)/python -c 'import importlib.util as u, sys; u.find_spec("torchvision") and sys.exit("torchvision must be absent: no dependency of comodal may need it, and beside a CPU torch it breaks imports. Find who needs it.")'
	$(PYTEST) -m 'not slow' $(ARGS)

clean: ## remove .venv, caches and the demo
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
