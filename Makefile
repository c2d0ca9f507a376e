# Two commands to begin with:
#   make quickstart   installs into .venv, then runs weak-to-strong end to end on this machine
#   make test         installs into .venv, then checks and tests
# Needed: Python 3.11+, pip, make, a C++ compiler. A second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help quickstart notebooks test test-slow check docs clean

help:
	@sed -n 's/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST)) | head -5
	@echo "  make test-slow    what is long, or needs vLLM or a browser (installs both)"
	@echo "  make check        ruff and mypy alone"
	@echo "  make notebooks    all notebooks as HTML, of the example or of RUN=runs/NAME"
	@echo "  make docs         docs/recipe.md, tables of docs/scale.md and the JSON Schemas, from the code"
	@echo "  make clean        removes .venv and caches, not runs/"

quickstart:
	@bash .ci/install base "$(PYTHON)"
	@$(BIN)/w2s run recipes/quickstart.yaml

notebooks:
	@bash .ci/install notebooks "$(PYTHON)"
	@$(BIN)/python -m analysis.notebooks $(RUN)

test: check
	@$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -m "not slow"
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report

test-slow:
	@bash .ci/install dev "$(PYTHON)"
	@bash .ci/install vllm "$(PYTHON)"
	@bash .ci/install browser "$(PYTHON)"
	$(BIN)/python -m pytest -m slow

check:
	@bash .ci/install dev "$(PYTHON)"
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy --no-error-summary

docs:
	@bash .ci/install base "$(PYTHON)"
	$(BIN)/w2s schema > recipes/schema/recipe.json
	$(BIN)/ida schema > recipes/schema/ida.json
	$(BIN)/python -m aligner_core.reference profile > recipes/schema/profile.json
	$(BIN)/python -m aligner_core.reference docs > docs/recipe.md
	$(BIN)/python -m w2s.scale_tables docs/scale.md

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
