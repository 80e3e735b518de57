# Everything runs in .venv, which these targets make and fill from constraints.txt.
# PYTHON=python3.12 make test   uses another interpreter (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
export HF_HUB_OFFLINE := 1
# Where it is set, every process compiles torch and lightning anew: 20 s each, and tests start many.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo imagenet test quick lint types tests bench docs clean

help:
	@echo "make demo    install, then a cascade of digit classifiers, and the front of 60 models"
	@echo "make imagenet   the paper's figure from your copy of ImageNet (docs/paper.md)"
	@echo "make test    install, then lint, types, tests and doctests"
	@echo "make quick   lint, and the tests that take no minute"
	@echo "make bench   timings, as tables"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make clean   remove what these targets made"

# uv installs the 6 GB of torch and its CUDA libraries in seconds. torch and torchvision come from
# one index by exact versions: a torch from elsewhere does not load torchvision's operators.
.venv/installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/pip install --quiet --constraint constraints.txt uv
	$(UV) --editable '.[report]'
	touch $@

.venv/installed-dev: .venv/installed
	$(UV) --editable '.[dev]'
	touch $@

.venv/installed-report: .venv/installed
	$(UV) --editable '.[report]'
	touch $@

demo: .venv/installed
	$(BIN)/lit-cascade validate --config digits_pair.yaml
	$(BIN)/lit-cascade search --records checkpoints/imagenet --score agreement --stages 3 --report

# The paper's figure, as docs/paper.md explains it. Records are kept: after an interruption, or with
# more models, the same command goes on.
#   make imagenet DATA=/data/imagenet LIMIT=100 RECORD='--trainer.precision bf16-mixed'
DATA ?= ILSVRC/imagenet-1k
OUT ?= runs/imagenet
TABLES ?= --results docs/results/screen/screen.csv
LIMIT ?= 40
SEARCH ?= --stages 3 --bands 0.80:0.86 0.86: 0.87:
SCREEN = $(BIN)/lit-cascade screen $(TABLES) --accuracy 0.80: --at_most $(LIMIT) --out $(OUT)/screen --overwrite
comma := ,
space := $() $()
LIST = --model.timm.models '[$(subst $(space),$(comma),$(strip $(MODELS)))]'

imagenet: export HF_HUB_OFFLINE := 0
imagenet: .venv/installed-report
	$(if $(MODELS),,$(SCREEN))
	$(BIN)/lit-cascade record --config imagenet_zoo.yaml $(if $(MODELS),$(LIST),--config $(OUT)/screen/models.yaml) \
		--data.init_args.source $(DATA) --out $(OUT)/records $(RECORD)
	$(BIN)/lit-cascade search --records $(OUT)/records --out $(OUT)/search --overwrite $(SEARCH)
	$(BIN)/lit-cascade report $(OUT)/search --overwrite

# mypy runs beside the tests, and says what it found after them.
test: lint
	@$(BIN)/mypy > .venv/types.log 2>&1 & mypy=$$!; trap "kill $$mypy" INT TERM; \
	$(MAKE) --no-print-directory tests; tests=$$?; \
	wait $$mypy; types=$$?; echo $(BIN)/mypy; cat .venv/types.log; \
	[ $$tests = 0 ] && [ $$types = 0 ]

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

tests: .venv/installed-dev
	$(BIN)/pytest -n 2 --dist worksteal

# What a developer runs every minute: no command, trainer or process.
QUICK := core records live analysis utilities test_rooms.py test_options.py
quick: lint
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow' $(addprefix tests/,$(QUICK))

bench: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.search
	$(BIN)/python -m tests.benchmarks.record
	$(BIN)/python -m tests.benchmarks.speed --samples 512 --repeats 3
	$(BIN)/python -m tests.benchmarks.overhead
	$(BIN)/python -m tests.benchmarks.calibrate
	$(BIN)/python -m tests.benchmarks.serving --seconds 10
	$(BIN)/python -m tests.benchmarks.growth --samples 10000 50000 --classes 10 1000 --models 4 15

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean
	@echo "site/index.html"

clean:
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache build dist
