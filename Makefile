# Every target sets up .venv and builds what it needs; a second run takes seconds. `make help` lists them.
PYTHON ?= python3
TEST_JOBS ?= 2
# A release of torch, or `installed`: the one that $(PYTHON) has. Any but the usual gets an environment of its own.
USUAL_TORCH := 2.13.0
TORCH ?= $(USUAL_TORCH)

VENV := .venv$(addprefix -,$(filter-out $(USUAL_TORCH),$(TORCH)))
PY := $(VENV)/bin/python
PACKAGES := .venv-packages

BUILD = $(PY) setup.py --quiet build_ext --inplace
# A process with no tests left takes over half of another's.
PYTEST = $(PY) -m pytest -n $(TEST_JOBS) --dist worksteal
# What this machine can run and has nothing better than: one or two instruction sets, and without an NVIDIA driver no
# CUDA.
FOR_HERE = LSTM_FUSED_CPU=here LSTM_FUSED_CUDA=$${LSTM_FUSED_CUDA:-driver}
CPP_FILES = $(shell find csrc tests bench examples -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-all test-torches test-arm test-packages bench docs links gpu lint format wheel wheels wheel-arm build cuda clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(VENV)/editable.stamp ## Train a language model with torch.nn.LSTM and lstm_fused.LSTM side by side
	@$(FOR_HERE) $(BUILD)
	$(PY) examples/char_lm.py

# What a change of a kernel or of the module breaks first.
FAST_TESTS := $(addprefix tests/module/test_,cell.py convert.py errors.py forward_backward.py lengths_reset_cells.py module.py \
	packed.py variants.py) tests/cpu/test_cpu_plan.py tests/cpu/test_one_step.py tests/cuda/test_explain.py tests/cuda/test_plan.py

test-fast: build ## Of the tests those for the inner loop, in about a minute
	$(PYTEST) -m "not slow" $(FAST_TESTS)

test: build ## The tests, but for those marked slow
	$(PYTEST) -m "not slow"

test-slow: build ## The tests marked slow
	$(PYTEST) -m slow

test-all: test test-slow ## All tests

test-torches: ## The tests with the oldest torch and others, each in an environment of up to 8 GB
	for torch in 2.10.0 2.11.0 2.12.1 2.14.1; do $(MAKE) test TORCH=$$torch || exit; done

test-arm: $(VENV)/requirements.stamp ## Tests on aarch64, emulated: needs Debian 12, qemu-user-static and g++-aarch64-linux-gnu, and downloads 200 MB
	$(PY) tools/arm.py test

test-packages: build $(PACKAGES)/requirements.stamp ## Other people's packages with our LSTM (docs/other-code.md): installs 2 GB
	PYTHONPATH=. $(PACKAGES)/bin/python -m pytest tests/packages

bench: build ## Compare the speed with torch.nn.LSTM's
	$(PY) -m bench

docs: $(VENV)/editable.stamp $(VENV)/docs.stamp ## The manual: build/docs/docs/index.html
	@$(FOR_HERE) $(BUILD)
	$(PY) -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs

links: docs ## Check the manual's links to other sites, which needs a network
	$(PY) -m sphinx --quiet -b linkcheck -c docs . build/links

gpu: ## All that needs a GPU, by $(PYTHON) as it is, without .venv: make gpu OUT=folder
	PYTHON=$(PYTHON) tools/gpu.sh "$(or $(OUT),out/gpu)"

lint: $(VENV)/requirements.stamp ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP_FILES)
	$(PY) -m mypy

format: $(VENV)/requirements.stamp ## Put Python and C++ in the project's style
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP_FILES)

wheel: build ## Build dist/*.whl, then install and run it in an environment of its own
	$(PY) tools/wheels.py --lend

wheels: build ## A wheel for every CPython from 3.10 on that is here, each run in an empty environment (1 GB each)
	$(PY) tools/wheels.py --torch $(USUAL_TORCH)

wheel-arm: $(VENV)/requirements.stamp ## A wheel for aarch64, cross-compiled without CUDA, and run as in test-arm
	$(PY) tools/arm.py wheel

build: FOR_HERE = # all of it, in one run
build: $(VENV)/cuda.stamp $(VENV)/editable.stamp ## Compile what has changed, kernels for GPUs included
	@$(BUILD)

cuda: export FORCE_CUDA = 1
cuda: build ## As build, but an error where there is no CUDA compiler

clean: ## Remove what was built, but not .venv
	rm -rf build dist *.egg-info lstm_fused/*.so lstm_fused/_build.json

$(VENV)/editable.stamp: $(VENV)/requirements.stamp pyproject.toml
	@$(FOR_HERE) $(BUILD) # here rather than inside pip, which would hide its progress
	$(FOR_HERE) $(PY) -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

# Where the machine has no CUDA toolkit the compiler comes from PyPI; LSTM_FUSED_CUDA=0 does without.
$(VENV)/cuda.stamp: $(VENV)/requirements.stamp requirements-cuda.txt
	@$(PY) tools/toolchain.py || $(PY) -m pip install --requirement requirements-cuda.txt
	@touch $@

$(VENV)/docs.stamp: $(VENV)/requirements.stamp requirements-docs.txt
	$(PY) -m pip install --quiet --requirement requirements-docs.txt
	@touch $@

$(VENV)/requirements.stamp: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),installed)
	$(PYTHON) -c 'import sys; print(*sys.path[1:], sep="\n")' >"$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
else
	$(PY) -m pip install torch==$(TORCH)
endif
	$(PY) -m pip install --requirement requirements-dev.txt
	@touch $@

# --no-deps: the list is complete, and leaves out what does not go with this torch. torchaudio's own library is for CUDA's
# torch and would not load; what is used of it is Python.
$(PACKAGES)/requirements.stamp: requirements-dev.txt requirements-packages.txt
	$(PYTHON) -m venv $(PACKAGES)
	$(PACKAGES)/bin/python -m pip install --quiet torch==$(USUAL_TORCH)
	$(PACKAGES)/bin/python -m pip install --quiet --requirement requirements-dev.txt
	$(PACKAGES)/bin/python -m pip install --quiet --no-deps --requirement requirements-packages.txt
	rm -f $(PACKAGES)/lib/python*/site-packages/torchaudio/lib/*.so
	$(PACKAGES)/bin/python -m pip download --quiet --no-deps --no-build-isolation --no-binary sb3-contrib \
		--dest $(PACKAGES)/sdist $$(grep ^sb3-contrib== requirements-packages.txt) # its tests
	@touch $@
