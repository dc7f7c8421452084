# Each target is complete on a fresh clone: it makes .venv, installs into it once, and runs.
PYTHON ?= python3
MODEL ?= nano
DTYPE ?= float32
DEVICE ?= cpu
SUBSET ?= all
PY := .venv/bin/python
READY := .venv/.ready
READY_DOCS := .venv/.ready-docs

help:  ## this list
	@grep -hE '^[a-z/-]+:.*##' Makefile | sed -E 's/^([^:]+):.*## /\1	/' | expand -t 20

# where they lie; the page is built after each script, of what is there
FOUND = results/$(notdir $(MODEL:%/=%))$(if $(filter quick,$(SUBSET)),-quick)
# they download their data, and so have targets of their own
ATLAS = examples/12_public_behaviours.py
ONLINE = $(wildcard examples/1[2-6]_*.py)
ASKED = --model $(MODEL) --dtype $(DTYPE) --device $(DEVICE) --subset $(SUBSET)
SCRIPTS = $(filter-out $(ONLINE),$(sort $(wildcard examples/[0-9]*.py)))
PORT ?= 8765
SETS = $(if $(DATA),--data $(DATA))
reproduce: $(READY)  ## every experiment on MODEL (nano): figures, tables and one report page in results/MODEL
	@$(PY) -m ministeer.lab.estimate $(MODEL) --dtype $(DTYPE) --device $(DEVICE) --subset $(SUBSET)
	@for script in $(SCRIPTS); do \
	  $(PY) $$script $(ASKED) || exit 1; \
	  wait; $(PY) -m ministeer.lab.report $(FOUND) | tail -n 1 & \
	done; wait
	@$(PY) -m ministeer.lab.report $(FOUND) $(wildcard weights/$(MODEL)/seed-*.json)

atlas: $(READY)  ## 135 public behaviours on MODEL, downloaded once, or in DATA: which can be steered? results/atlas/MODEL/atlas.html
	$(PY) $(ATLAS) $(ASKED) $(SETS)

beyond: $(READY)  ## the same behaviours: what steering costs, what words, privacy and long prompts do to it; results/atlas/MODEL/report.html
	@for script in $(filter-out $(ATLAS),$(ONLINE)); do $(PY) $$script $(ASKED) $(SETS) || exit 1; done
	@$(PY) -m ministeer.lab.report $(FOUND:results/%=results/atlas/%)

play: $(READY)  ## a page on this machine in which to steer MODEL
	@.venv/bin/ministeer play --model $(MODEL) --port $(PORT)

record: $(READY)  ## keep the report of MODEL, after `make reproduce` (or `beyond`, with FOUND=results/atlas/MODEL), in docs/results
	@$(PY) -m ministeer.lab.record $(FOUND)

docs: $(READY_DOCS)  ## a site of the course, run on nano, and all other pages: build/docs/index.html
	@rm -rf build/docs
	$(PY) -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/docs
	@cp build/docs/README.html build/docs/index.html

course: $(READY_DOCS)  ## the lessons as notebooks that keep their outputs, run on MODEL: build/course
	@mkdir -p build/course && cp docs/course/*.py docs/course/*.md build/course
	@sed -i.nano 's|load("nano")|load("$(MODEL)")|' build/course/[1-9]_*.py
	@$(PY) -m jupytext -q --to ipynb build/course/[1-9]_*.py && rm build/course/[1-9]_*.py*
	@for lesson in build/course/[1-9]_*.ipynb; do \
	  $(PY) -m jupyter execute --inplace $$lesson || exit 1; \
	done

test: $(READY)  ## the tests, on as many as four cores
	$(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal

check: $(READY)  ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: $(READY)  ## side by side with other libraries on GPT-2 XL's size; writes benchmarks/RESULTS.md (12 GB of disk, 14 of memory)
	$(PY) benchmarks/bench.py
	$(PY) benchmarks/bench.py --smollm2

bench-gpu: $(READY)  ## GPT-2 XL's sizes on DEVICE=cuda, and how long nano trains there; writes benchmarks/RESULTS-GPU.md
	$(PY) benchmarks/bench.py --device $(if $(filter cpu,$(DEVICE)),cuda,$(DEVICE))

bench-peers: $(READY)  ## an environment for each library of benchmarks/peers.txt, which `make bench` then includes
	@while read -r peer more; do \
	  env=build/peers/$${peer%%==*}; test -x $$env/bin/python || $(PYTHON) -m venv $$env || exit 1; \
	  $$env/bin/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" && \
	  $$env/bin/python -m pip install -q --disable-pip-version-check $$peer $$more safetensors || exit 1; \
	done < benchmarks/peers.txt

test-xl: $(READY)  ## GPT-2 XL's full size with random weights: load, parity, peak memory (7 GB of disk, 14 GB of memory)
	$(PY) tests/xl.py

weights: $(READY)  ## download MODEL into a cache: gpt2, gpt2-medium, gpt2-large, gpt2-xl, smollm2-135m-instruct, or owner/name on the hub
	$(PY) -m ministeer.hub $(MODEL)

weights/nano: $(READY)  ## make the bundled model again, from nothing, and measure it (about an hour on 2 cores)
	$(PY) weights/nano/corpus.py --vocabulary weights/nano/vocab.tiktoken
	$(PY) weights/nano/tokenizer_json.py
	$(PY) weights/nano/train.py
	$(PY) weights/nano/train.py --late
	$(PY) weights/nano/evaluate.py

weights/nano/sizes: $(READY)  ## train nano in other sizes and keep what experiment 10 finds on them (about two hours on 2 cores)
	@for size in 2x256 4x256 8x128; do \
	  $(PY) weights/nano/train.py --layers $${size%x*} --width $${size#*x} --seed 1 --repeats 500 --out build/nano-$$size && \
	  $(PY) weights/nano/evaluate.py --model build/nano-$$size && \
	  $(PY) examples/10_architecture.py --model build/nano-$$size && \
	  $(PY) -m ministeer.lab.report results/nano-$$size && \
	  cp results/nano-$$size/evidence.json weights/nano/size-$$size.json || exit 1; \
	done

weights/nano/seeds: $(READY)  ## train nano from two other seeds and keep what the experiments find on them (about two hours on 2 cores)
	@for seed in 1 2; do \
	  $(PY) weights/nano/train.py --seed $$seed --repeats 500 --out build/nano-seed-$$seed && \
	  $(PY) weights/nano/evaluate.py --model build/nano-seed-$$seed && \
	  $(MAKE) reproduce MODEL=build/nano-seed-$$seed && \
	  cp results/nano-seed-$$seed/evidence.json weights/nano/seed-$$seed.json || exit 1; \
	done

# torch first and by its exact version, so that nothing else decides which build of it comes
$(READY): setup.py constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[reproduce,hub,test]'
	# by themselves, as they ask for older transformers and attrs than they need; the tests that compare with them skip without them
	-$(PY) -m pip install -q --disable-pip-version-check --no-deps "$$(grep '^steering-vectors==' constraints.txt)"
	-$(PY) -m pip install -q --disable-pip-version-check --no-deps $$(grep -oE '^(dp-accounting|dm-tree|absl-py|attrs)==[^ ;]+' constraints.txt)
	@touch $@

$(READY_DOCS): $(READY)
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

.PHONY: help reproduce atlas beyond play record docs course test check bench bench-gpu bench-peers test-xl weights
.PHONY: weights/nano weights/nano/seeds weights/nano/sizes
.DEFAULT_GOAL := help
