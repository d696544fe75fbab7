# Everything on a fresh machine with Python 3.11+, a C++ compiler and make. Environments live in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard csrc/*) CMakeLists.txt pyproject.toml constraints.txt
CMAKE_ARGS ?=
# The Python that has torch with CUDA, and Triton.
GPU_PYTHON ?= python3
GPU_MINUTES ?= 5
OUT ?= out

.PHONY: demo test bench gpu lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed  ## train on real digits, draw, compare with the naive sampler, write samples.png
	$(BIN)/made-fast demo

test: $(VENV)/installed  ## all tests
	$(BIN)/python -m pytest

bench: $(VENV)/installed  ## the paired comparison of every contender
	$(BIN)/python -m benchmarks.paired
	$(BIN)/python -m benchmarks.training

gpu:  ## tests and benchmarks that need a GPU, with the machine's own packages; fetches nothing
	$(GPU_PYTHON) -m benchmarks.gpu_checks --out $(OUT) --minutes $(GPU_MINUTES)

lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: as a mere dependency a newer, much larger build could be chosen.
$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet -c constraints.txt torch numpy
	CMAKE_ARGS="$(CMAKE_ARGS)" $(BIN)/pip install --quiet -c constraints.txt -e '.[demo,test,bench]'
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt ruff mypy clang-format
	touch $@

clean:
	rm -rf $(VENV) build
