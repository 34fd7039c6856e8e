PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python main.py --runner LowRankHybridRunner --doc demo
KILLS ?= 100
API := configs linalg models losses datasets inference evaluation runners

.PHONY: demo test tests slow lint types docs clean

demo: .venv/installed
	$(RUN) --config digits.yml --rank 16 --ni
	$(RUN) --test --rank 16
	@echo "Look at test_0.5.png and walks_0.5.png in runs/logs/demo_rank16/images; the numbers are in metrics.json beside it."

test: lint types tests

tests: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/installed-dev
	KILLS=$(KILLS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

docs: .venv/installed-dev
	$(BIN)/python -m pdoc --docformat google --output-directory docs/api $(API)
	@echo "Open docs/api/index.html."

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@ .venv/installed

clean:
	rm -rf .venv build docs/api .mypy_cache .pytest_cache .ruff_cache
