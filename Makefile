# make run   the few-shot study: the start, SFT and GRPO on the same pictures
# make test  every test, every notebook
# make check the code style, and that notebooks and package agree
# make coverage  the tests of the rewards reach every branch of the rewards
# make lab   JupyterLab on the notebooks
# make docs  the notebooks, the functions and two pages more as a site in site/, to be read without a network
# make clean remove what make made (runs/ is yours and stays)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_ARGS ?=

.PHONY: run test check coverage lab docs clean

run: $(READY)
	$(BIN)/visual-rft compare --out runs/compare

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests

check: $(READY)
	$(BIN)/ruff check visual_rft tests tools setup.py
	$(BIN)/python -m pytest -q tests/test_sync.py tests/test_style.py

coverage: $(READY)
	$(BIN)/coverage run -m pytest -q tests/test_parsing.py tests/test_boxes.py tests/test_rewards.py tests/test_advantages.py
	$(BIN)/coverage report

lab: $(READY)
	$(BIN)/visual-rft lab

docs: $(READY)
	$(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) build site dist *.egg-info .coverage .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): settings.ini setup.py pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; try: make PYTHON=python3.11')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), which takes a few minutes"
	$(BIN)/pip install --disable-pip-version-check --quiet $(PIP_ARGS) -e ".[dev]"
	touch $(READY)
