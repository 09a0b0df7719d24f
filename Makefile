# make train   .venv, the project, and the default preset on real text: held-out figure, sample, where the run lies
# make test    .venv, what the tests need, and all the tests
# make lint    what `make test` checks of style, alone

PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/default

.PHONY: train test lint clean

train: .venv/.installed
	$(BIN)/python -m train default --workdir $(RUN)
	$(BIN)/python -m eval perplexity --workdir $(RUN)
	$(BIN)/python -m eval generate --workdir $(RUN) --prompt "def " --tokens 400 --temperature 0.8 --top-p 0.95 --seed 0
	@echo "The run lies in $(RUN): config.json, versions.json, metrics.jsonl, loss.png, checkpoints/"

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# With the extra in one go: nothing is looked up twice.
.venv/.installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch .venv/.installed $@

clean:
	rm -rf .venv
