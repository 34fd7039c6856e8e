PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python main.py --runner UnetDSMRunner --doc demo

.PHONY: demo test slow lint clean

demo: .venv/installed
	$(RUN) --config digits_dsm.yml --noise 0.5 --ni
	$(RUN) --test
	@echo "Look at runs/logs/demo/images/test.png; the figures are in runs/logs/demo/metrics.json."

test: .venv/installed-dev
	$(BIN)/python -m pytest

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@ .venv/installed

clean:
	rm -rf .venv .pytest_cache .ruff_cache
