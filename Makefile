# Every target sets up what it needs: a virtual environment in .venv, PyTorch, this package.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without an NVIDIA GPU the CPU build of PyTorch is enough, and much smaller. It is taken where pip
# can find it (an index or a directory of wheels of your choice, by PIP_EXTRA_INDEX_URL or
# PIP_FIND_LINKS); else the ordinary build of the same version.
TORCH := torch==2.13.0
TORCH_CPU := torch==2.13.0+cpu

.PHONY: demo test check clean

demo: $(VENV)/ready
	$(BIN)/sparsescope demo --out runs/demo --resume

test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@if ! command -v nvidia-smi >/dev/null; then \
		$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH_CPU) 2>/dev/null \
		|| echo "No CPU build of PyTorch where pip looks: taking the ordinary one."; fi
	$(BIN)/pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache
