.DEFAULT_GOAL := help
PYTHON ?= python3
UV := .local/tools/bin/uv
BIN := .venv/bin

.PHONY: help run table check test e2e bench lint lock clean

help: ## show this help
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# uv is installed inside the project, not system-wide. It then needs neither pip nor venv from the system.
$(UV): requirements-dev.txt
	@echo "Installing uv into .local/tools"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --upgrade --target .local/tools \
		"$$(grep -oE '^uv==[^ ]+' requirements-dev.txt)"
	@touch $@

.venv/installed: requirements-dev.txt $(UV)
	@echo "Installing the locked environment into .venv"
	@$(UV) venv --quiet --allow-existing --python '>=3.11,<3.14' .venv
	@$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements-dev.txt
	@touch $@

run: .venv/installed ## start Airflow on 8080 and the API on 8989, and train a first model; Ctrl-C stops them
	@exec $(BIN)/python -m launcher

# By the environment, so that the shell reads neither the path nor the name: `Precio ($)` and blanks survive.
export CSV TARGET
table: .venv/installed ## declare the table of CSV=FILE, with TARGET=COLUMN to predict (TASK=class, CHECK=1 only looks, FORCE=1 overwrites)
	@PYTHONPATH=plugins $(BIN)/python -m penguins.table "$$CSV" --target "$$TARGET" $(if $(TASK),--task $(TASK)) $(if $(FORCE),--force) $(if $(CHECK),--check)

check: .venv/installed ## hold the table's file, or CSV=FILE, against the declaration
	@PYTHONPATH=plugins $(BIN)/python -m penguins.data "$$CSV"

test: .venv/installed ## run every test that needs no Docker
	@$(BIN)/python tests/run.py --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# One for two cores: beside another, a stack of sixteen services takes longer to answer than Airflow itself waits.
STACKS = $$($(BIN)/python -c "import os; print(min(max(os.cpu_count() // 2, 1), 2))")

e2e: .venv/installed ## test the stack in Docker, and the walkthrough in a browser
	@$(BIN)/python -m pytest --numprocesses $(STACKS) --dist loadfile tests/e2e

bench: .venv/installed ## benchmark serving, data and the DAG; PEERS=1 adds other model servers, SIZES=1 up to ten million rows, GATE=1 all gate trials
	@PYTHONPATH=plugins $(BIN)/python -m benchmarks

lint: .venv/installed ## run ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy app benchmarks config dags launcher plugins tests

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

lock: $(UV) ## recompile the three requirements files from pyproject.toml
	@$(COMPILE) --group dev --constraint airflow-constraints.txt --output-file requirements-dev.txt
	@$(COMPILE) --group dag --constraint requirements-dev.txt --output-file requirements.txt
	@$(COMPILE) --group api --constraint requirements-dev.txt --output-file app/requirements.txt

clean: ## delete the environment, state, logs and models
	@rm -rf .venv .local .mypy_cache .pytest_cache .ruff_cache
	@find logs models -mindepth 1 ! -name .gitkeep -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
