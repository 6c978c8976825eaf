PYTHON ?= python3
VENV := .venv

.PHONY: demo test lint bench image clean

$(VENV)/%.done: pyproject.toml
	$(PYTHON) -m venv $(VENV) && $(VENV)/bin/pip install --quiet --editable .$(if $(filter run,$*),,[$*]) && touch $@

demo: $(VENV)/run.done
	$(VENV)/bin/thg-proxy demo

test: $(VENV)/test.done
	$(VENV)/bin/python -m pytest

lint: $(VENV)/test.done
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

bench: $(VENV)/bench.done
	$(VENV)/bin/python -m tests.bench

image:
	$(PYTHON) deploy/docker/build.py
