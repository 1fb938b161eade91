# A fresh clone needs Python 3.11-3.13 and nothing else: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup demo test check clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,deepspeed,onnx,wandb,tensorboard,submitit,probe]"
	touch $(READY)

demo: $(READY)
	$(RUN) launch/local.py demo

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Everything; plain `pytest` leaves the slow tests out. One process a core, one thread each (tests/conftest.py).
test: check
	$(RUN) -m pytest -m "" --numprocesses auto --dist loadgroup

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
