PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Bytecode is kept, because tests start hundreds of commands, and each would compile the source anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

train: $(READY) ## train 16 starts on lions against ducks, choose the best, test it (under a minute)
	$(BIN)/python scripts/train.py

test: $(READY) ## the fast tests: CPU, offline, no process and no browser (a few minutes)
	$(PYTEST) -m "not slow"

test-all: $(READY) ## all tests: commands, browsers, kills, peers too (a quarter of an hour)
	$(PYTEST) -n 3 --no-loadscope-reorder

lint: $(READY) ## style, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

report: $(READY) ## the page that opens the box, written anew: make report RUN=outputs/DATE/TIME (default: the last that ended)
	$(BIN)/python scripts/report.py "$(or $(RUN),$(lastword $(sort $(patsubst %/summary.json,%,$(wildcard outputs/*/*/summary.json)))))"

page: $(READY) ## the page for a class, docs/index.html, with networks trained for it: ready for any web server
	$(BIN)/python scripts/page.py

check-gradients: $(READY) ## the gradient by hand against autograd and finite differences
	$(BIN)/python scripts/check_gradients.py

compare: $(READY) ## are the starts of two runs really different? make compare A=RUN B=RUN
	$(BIN)/python scripts/compare.py $(if $(A),"$(A)") $(if $(B),"$(B)")

bench: $(READY) ## how fast: ours and the machine's own limit, in one run
	$(BIN)/python scripts/bench.py

docs: $(READY) ## pages of the Python interface, from its docstrings: build/docs/hillstart.html
	$(BIN)/python scripts/docs.py

results: $(READY) ## the recipes of conf/experiment run, their table written: half an hour; PHOTOS=FOLDER too
	$(BIN)/python scripts/results.py $(if $(PHOTOS),--photos "$(PHOTOS)")

soak: $(READY) ## an hour of runs killed at random moments and resumed: make soak SECONDS=3600
	$(BIN)/python tests/soak.py $(or $(SECONDS),3600)

clean: ## remove the environment and caches; runs in outputs/ and multirun/ stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv with the versions of constraints.txt: a few minutes and several GB, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@npm install --silent --no-save --no-audit --no-fund --prefix .venv axe-core@4.14.1 \
	  || echo "axe-core is missing: the accessibility test of the page will be skipped."
	@touch $(READY)

.PHONY: help train test test-all lint report page check-gradients compare bench docs results soak clean
