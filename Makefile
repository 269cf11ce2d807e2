# demo, test, check, bench: each makes what it needs in .venv and is safe to run again. With BIN=<folder of python>, given
# or exported, what is installed there is used and nothing is downloaded.
PYTHON ?= python3
VENV ?= .venv
BIN ?= $(VENV)/bin
MADE := $(if $(filter file,$(origin BIN)),$(VENV))
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: demo test check bench gpu-all gpu-test gpu-build gpu-bench-step gpu-bench-decode clean

demo: $(MADE:=/installed)
	$(BIN)/python -m eft_ext demo

test: $(MADE:=/tests-installed)
	$(BIN)/cmake -G Ninja -S . -B build/ctest -DEFT_PYTHON=OFF -DEFT_TESTS=ON -DEFT_CUDA=OFF > /dev/null
	$(BIN)/cmake --build build/ctest
	$(BIN)/ctest --test-dir build/ctest --output-on-failure
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(MADE:=/dev-installed)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

bench: $(MADE:=/tests-installed)
	$(BIN)/python benchmarks/bench_step.py

# On a machine with a GPU (docs/gpu.md). With BIN the kernels are built in place for the GPU that is there;
# EFT_PREBUILT=1 takes eft_ext/libeft.so as it lies, and builds the module for this Python beside it where there is none.
GPU_READY := $(or $(MADE:=/tests-installed),gpu-build)
GPU_OUT ?= gpu
GPU_SECONDS ?= 480
gpu-all: $(MADE:=/tests-installed)
	$(BIN)/python benchmarks/gpu_all.py --seconds $(GPU_SECONDS) --out $(GPU_OUT)

# Triton compiles for minutes on one core.
GPU_WORKERS = $(shell $(BIN)/python -c "import xdist" 2> /dev/null && printf '%s' '-n logical --maxprocesses 16 --dist worksteal')
# By name: each of 16 workers would collect all tests.
GPU_TESTS := $(wildcard python_tests/*/test_*_gpu.py) python_tests/ops/test_golden.py
gpu-build:
	@$(if $(EFT_PREBUILT),test -f $(MODULE) || ($(BUILD_MODULE)),$(BUILD_ALL))

BUILD_ALL = PATH="$(BIN):$$PATH" CMAKE_CUDA_ARCHITECTURES=$${CMAKE_CUDA_ARCHITECTURES-native} \
	$(BIN)/python setup.py -q build_ext --inplace
MODULE = eft_ext/_native$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))")
BUILD_MODULE = export PATH="$(BIN):$$PATH"; cmake -G Ninja -S . -B build/module \
	-DEFT_LIBRARY=$(CURDIR)/eft_ext/libeft.so -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/eft_ext \
	-DPython_EXECUTABLE=$$(command -v $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null \
	&& cmake --build build/module

gpu-test: $(GPU_READY)
	$(BIN)/python benchmarks/gpu_ready.py
	$(BIN)/python -m pytest $(GPU_WORKERS) -m gpu $(GPU_TESTS)
	$(BIN)/python benchmarks/gpu_sanitize.py

gpu-bench-step: $(GPU_READY)
	$(BIN)/python benchmarks/gpu_ready.py
	$(BIN)/python benchmarks/gpu_step.py --json benchmarks/results/step-gpu.json
	$(BIN)/python benchmarks/gpu_report.py benchmarks/results/step-gpu.json --table benchmarks/results/step-gpu.md \
		--plot benchmarks/results/step-gpu.png

gpu-bench-decode: $(GPU_READY)
	$(BIN)/python benchmarks/gpu_ready.py
	$(BIN)/python benchmarks/bench_decode.py --device cuda --seconds 360 --json benchmarks/results/decode-gpu.json

clean:
	rm -rf build $(VENV) eft_ext/*.so

# The package, built in place; again whenever a native source or the build itself has changed.
$(VENV)/installed: $(SOURCES) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	touch $@

# What tests and checks need beside the package, which is not built again for it.
$(VENV)/tests-installed: $(VENV)/installed
	$(PIP) install -q -c constraints.txt 'eft_ext[test]'
	touch $@

$(VENV)/dev-installed: $(VENV)/tests-installed
	$(PIP) install -q -c constraints.txt 'eft_ext[dev]'
	touch $@
