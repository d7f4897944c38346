# make quickstart   install into .venv, fine-tune the pocket base and print its score: no GPU and no data needed
# make test         the same install with what the tests need, then the tests
# make check        ruff, ruff format and mypy
# make docs         the documentation site, into site/; its links are checked, and a warning is an error
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: quickstart test check docs clean

quickstart: .venv/runtime
	$(BIN)/lora-mm finetune --recipe scienceqa-pocket --output runs/quickstart --overwrite $(ARGS)

test: .venv/dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: .venv/dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html."

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lora-mm needs Python 3.11 or newer; name one with: make quickstart PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/runtime: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/runtime
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/docs: .venv/runtime
	$(PIP) install --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:
	rm -rf .venv runs site
