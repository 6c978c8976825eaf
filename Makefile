PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint coverage coverage-core bench fleet image lock audit reference clean

demo: .venv/run
	$(BIN)/thg-proxy demo

# Most tests wait for other processes.
test: .venv/test
	$(BIN)/python -m pytest -n 3 --dist loadfile

lint: .venv/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Of branches, by all tests and the processes that they start.
coverage: .venv/test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 3 --dist loadfile -m "not uncounted" --timeout 600
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report

# Of proxy/core, by the tests of its own: rules without I/O leave nothing that can't be tried.
coverage-core: export COVERAGE_FILE := .coverage-core
coverage-core: .venv/test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests/core
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report --include='proxy/core/*' --fail-under=100

bench: .venv/bench
	$(BIN)/python -m tests.bench --all

fleet: .venv/test
	$(BIN)/python -m tests.bench.fleet

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
