# demo, test, check, bench: each makes what it needs in .venv and is safe to run again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: demo test check bench gpu-test clean

demo: $(VENV)/installed
	$(BIN)/eft demo

test: $(VENV)/tests-installed
	$(BIN)/cmake -G Ninja -S . -B build/ctest -DEFT_PYTHON=OFF -DEFT_TESTS=ON -DEFT_CUDA=OFF > /dev/null
	$(BIN)/cmake --build build/ctest
	$(BIN)/ctest --test-dir build/ctest --output-on-failure
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

bench: $(VENV)/tests-installed
	$(BIN)/python benchmarks/bench_step.py

gpu-test: $(VENV)/tests-installed
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf build $(VENV) eft_ext/*.so

# The package, built in place; again whenever a native source or the build itself has changed.
$(VENV)/installed: $(SOURCES) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/tests-installed: $(VENV)/installed
	$(PIP) install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/dev-installed: $(VENV)/tests-installed
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@
