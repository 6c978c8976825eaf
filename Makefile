PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench fleet soak image lock audit reference clean

demo: .venv/run
	$(BIN)/thg-proxy demo

# Most tests wait for other processes.
test: .venv/test
	$(BIN)/python -m pytest -n 3 --dist loadfile

lint: .venv/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: .venv/bench
	$(BIN)/python -m tests.bench --all

fleet: .venv/test
	$(BIN)/python -m tests.bench.fleet

soak: .venv/test
	$(BIN)/python -m tests.soak

image:
	$(PYTHON) deploy/docker/build.py

# OPTIONS=--upgrade takes the newest versions.
lock: .venv/test
	$(BIN)/python deploy/dependencies/lock.py $(OPTIONS)

audit: .venv/test
	$(BIN)/pip-audit --strict --disable-pip --requirement requirements.txt

# deploy/REFERENCE.md, from the code.
reference: .venv/test
	$(BIN)/python -m tests.deploy.reference

clean:
	rm -rf .venv

.venv/run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . && touch $@

.venv/%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]' && touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
