# Everything on a fresh machine with Python 3.11+, a C++ compiler and make. Environments live in .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml constraints.txt
# An installed tree knows the files that it was installed with: other names ask for it again.
NAMES := $(VENV)/names-$(shell find made_fast -name '*.py' | sort | cksum | cut -d' ' -f1)
CMAKE_ARGS ?=
# Processes that tests are dealt out to; empty for one, which prints as it goes.
WORKERS ?= -n 2 --dist worksteal
# The Python that has torch with CUDA, and Triton.
GPU_PYTHON ?= python3
GPU_MINUTES ?= 5
OUT ?= out

# The oldest Triton that is supported, the one everything else is tested with, and whatever is newest.
TRITON_VERSIONS ?= 3.6 $(shell sed -n 's/^triton==//p' constraints.txt) newest
TRITON_MATRIX := $(TRITON_VERSIONS:%=triton-matrix-%)

# What surprised us in others' packages: scripts that know nothing of made_fast.
FINDINGS := $(sort $(wildcard findings/*.sh))

.PHONY: demo test test-all bench sanitize gpu lint docs owner release-check findings triton-matrix $(TRITON_MATRIX) clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed  ## train on real digits, draw, compare with the naive sampler, write samples.png
	$(BIN)/made-fast demo

# Kernels for GPUs run under Triton's interpreter, in a process of its own.
test: $(VENV)/installed  ## the quick tests: every law on every backend, every module
	MADE_FAST_PEERS=1 $(BIN)/python -m pytest $(WORKERS) -m "not slow and not interpreter"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest $(WORKERS) -m "interpreter and not slow"

test-all: $(VENV)/installed  ## all tests, of the many slow rows of the laws a part (MADE_FAST_ALL_ROWS=1: all of them)
	MADE_FAST_PEERS=1 $(BIN)/python -m pytest $(WORKERS) --durations=25 -m "not interpreter"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest $(WORKERS) -m interpreter

bench: $(VENV)/installed  ## the paired comparison of every contender
	$(BIN)/python -m benchmarks sampling
	$(BIN)/python -m benchmarks training

# Of the instruction sets those of this machine are built, at -O1: it takes minutes.
SETS = $(shell $(BIN)/python -m benchmarks sanitize --sets)
sanitize: $(VENV)/installed  ## the compiled module under address and undefined-behaviour sanitizers, driven by a fuzzer
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/sanitize/package -C build-dir=build/sanitize/cmake \
		-C cmake.build-type=RelWithDebInfo -C install.strip=false \
		-C cmake.define.MADE_FAST_SANITIZE=address,undefined,float-cast-overflow \
		-C "cmake.define.MADE_FAST_ONLY=$(SETS)" .
	$(BIN)/python -m benchmarks sanitize --module build/sanitize/package/made_fast

gpu:  ## tests and benchmarks that need a GPU, with the machine's own packages; fetches nothing
	$(GPU_PYTHON) -m benchmarks gpu_checks --out $(OUT) --minutes $(GPU_MINUTES)

lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*/*.h csrc/*/*.cpp)

# To search in the pages: python -m http.server -d site
docs: $(VENV)/docs $(VENV)/installed  ## the documentation as pages in site/, notebooks executed; a broken link or a failing cell fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

owner:  ## whose repository it is, everywhere: make owner OWNER=name
	@$(PYTHON) recipe/release.py owner '$(OWNER)'

release-check:  ## what is missing for a release: make release-check TAG=v0.1.0
	@$(PYTHON) recipe/release.py check '$(TAG)'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The pip that comes with older Pythons has no --group.
$(VENV)/pip: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt --upgrade 'pip>=25.1'
	touch $@

$(NAMES): | $(VENV)/bin/python
	rm -f $(VENV)/names-*
	touch $@

# torch first and pinned: as a mere dependency a newer, much larger build could be chosen.
$(VENV)/installed: $(SOURCES) $(NAMES) $(VENV)/pip
	@echo "1/3 torch and numpy, 200 MB and more to fetch"
	@$(BIN)/pip install -c constraints.txt torch numpy
	@echo "2/3 what the tests and the demo need, 600 MB to fetch: a minute or two"
	@$(BIN)/pip install --quiet -c constraints.txt --group test --group bench --group peers
	@echo "3/3 the compiled module: about a minute of each of two cores, the longest files first"
	@set -o pipefail; CMAKE_ARGS="$(CMAKE_ARGS)" $(BIN)/pip install -v -c constraints.txt -e '.[demo]' 2>&1 | tee $(VENV)/build.log \
		| awk '/^ *\[[0-9]+\/[0-9]+\]/ { print; fflush() }' || { tail -n 80 $(VENV)/build.log; exit 1; }
	@touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt --group lint
	touch $@

# The reference is made from the sources; the notebooks are executed, so what they show must be installed.
$(VENV)/docs: pyproject.toml constraints.txt $(VENV)/pip | $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt --group docs
	touch $@

findings:  ## run each script of findings/ and say ok, changed or failed; fetches packages
	@bad=0; for script in $(FINDINGS); do \
		if output=$$(PIP_DISABLE_PIP_VERSION_CHECK=1 "$$script" 2>&1); then echo "ok       $$script"; continue; fi; \
		bad=1; case "$$output" in *changed:*) echo "changed  $$script";; *) echo "failed   $$script";; esac; \
		printf '%s\n' "$$output"; \
	done; exit $$bad

triton-matrix: $(TRITON_MATRIX)  ## compile every GPU kernel with each of TRITON_VERSIONS; no GPU is needed

$(TRITON_MATRIX): triton-matrix-%: .venv-triton-%/installed
	env -u TRITON_INTERPRET $(<D)/bin/python -m benchmarks triton_static --no-budget --out out/triton-$*

# The compiled module is not needed. triton comes last and alone: builds of torch for CUDA ask for one version of it.
$(TRITON_VERSIONS:%=.venv-triton-%/installed): .venv-triton-%/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet -c constraints.txt torch numpy
	$(@D)/bin/pip install --quiet -c constraints.txt -C wheel.cmake=false -e .
	$(@D)/bin/pip install --quiet $(if $(filter newest,$*),--upgrade triton,'triton==$*.*')
	touch $@

clean:
	rm -rf $(VENV) .venv-triton-* build site
