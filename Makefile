PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python main.py --runner LowRankHybridRunner --doc demo

.PHONY: demo test slow lint clean

demo: .venv/installed
	$(RUN) --config digits_low_rank.yml --noise 0.5 --ni
	$(RUN) --test --rank 16
	@echo "Look at test.png and calibration.png in runs/logs/demo_rank16/images; the figures are in metrics.json beside it."

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
