# A fresh clone needs Python 3.11-3.13 and nothing else: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup demo test check gpu clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,deepspeed,onnx,wandb,tensorboard,submitit,probe,s3,hf]"
	touch $(READY)

demo: $(READY)
	$(RUN) launch/local.py demo

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Everything; plain `pytest` leaves the slow tests out. One process a core (pyproject.toml), one thread each (tests/conftest.py).
test: check
	$(RUN) -m pytest -m ""

# All that wants a GPU, in nine minutes: tests, step, memory, attention, features, two minutes of training.
# Results in $OUT or outputs/device; ESC10=DIR evaluates on real sounds; `benchmarks/device.py --rehearse` needs no GPU.
gpu: $(READY)
	$(RUN) benchmarks/device.py $(if $(ESC10),--esc10 $(ESC10))

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
