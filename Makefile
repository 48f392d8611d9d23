# The handshake: every target first makes .venv and installs what is missing (no root, nothing outside this folder).
#   make demo    a song from nothing      make test    the tests of every day      make lint    style and types
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
BIN := .venv/bin
MODEL ?= demo/model
# .venv/bin first: mpirun, ninja and the libraries behind them must come from one place.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install demo demo-edit evidence evidence-recordings evidence-musika evidence-melody evidence-wavenet model test test-long test-cluster lint docs bench clean distclean
.DEFAULT_GOAL := install

install: .venv/.installed

# The stamp is older than what it was made from -> pip looks again, and fetches only what has changed.
.venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv || \
	  { echo "make: $(PYTHON) -m venv failed; it needs Python 3.10 or newer with venv (Debian: apt install python3-venv), or make PYTHON=python3.11" >&2; exit 1; }; }
	@echo "installing the package and its extras with the tested versions of constraints.txt (the first time about 1 GB is downloaded)"
	@$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt -e '.[train,cluster,dev,docs]' \
	  | sed -u -n -E '/^ *(Downloading|Building|Installing|Successfully)/{s/Successfully installed.*/installed/;s/^(Installing collected packages).*/installing/;s/^ *//;p;}'
	@$(BIN)/python -m vqvae.compiled priors/autoregressive/native.cpp priors/wavenet/native.cpp vqvae/spectral/propagate.cpp || true
	@touch $@

demo: install
	$(BIN)/jukebox demo --out demo

# The spectral route with 3 seeds, trained longer than in the demo: its songs beside true songs and controls, and what is claimed of
# them; at most 75 minutes on two cores, and an interrupted one goes on where it was.
evidence: install
	$(BIN)/jukebox demo --evidence --out evidence

# The spectral route on recordings: MUSIC=folder, or three packages of game music from Debian. The model is planned for an hour on two cores, with
# what it is compared with (less time, one artist, the three-level codec) 2 3/4 hours, neither measured; an interrupted one goes on where it was.
MUSIC ?=
evidence-recordings: install
	launch/recipes/recordings.sh "$(MUSIC)" recordings docs/evidence

# The latent GAN on synthetic songs: three seeds, each figure beside its control. Some 45 minutes on two cores by the sum of its parts, resumable.
evidence-musika: install
	launch/recipes/musika.sh musika docs/evidence

# WaveNet, NSynth and the argmax bottleneck on synthetic songs: three seeds, each figure beside its control, and five models after equal CPU
# time. Some 45 minutes on two cores by the sum of its parts, resumable.
evidence-wavenet: install
	launch/recipes/wavenet.sh wavenet docs/evidence

# Latent diffusion on synthetic songs: three seeds, two ways of training, each figure beside its control. Some 55 minutes on two cores by the sum of its parts,
# resumable.
evidence-melody: install
	launch/recipes/melody.sh melody docs/evidence

# The model that comes with the package (jukebox/assets/demo), from synthetic songs: 72 minutes of training on two cores, resumable, fixed seeds.
model: install
	launch/recipes/model.sh model

# The demo's model with a masked prior of its tokens (some 5 minutes more), and a second of the recording that it inpaints.
demo-edit: install
	$(BIN)/jukebox demo --out demo
	$(BIN)/jukebox train masked_tokens demo/data --out demo/model --preset demo --threads 2
	$(BIN)/jukebox edit demo/model demo/recording.mp3 --start 4 --end 5 --out demo/edited.wav

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not long"

test-long: install
	$(BIN)/python -m pytest -m long

# Two hosts and a SLURM of two nodes made of this one machine: needs root, and what docs/cluster.md says; the rest is skipped.
test-cluster: install
	$(BIN)/python -m pytest tests/cluster/two_hosts.py tests/cluster/slurm.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(MAKE) docs

# The site, into site/; a broken link or anchor is an error.
docs: install
	$(BIN)/mkdocs build --strict --quiet

# The peer (transformers' port of the published code) needs older packages than ours, so it has an environment of its own.
.venv-peer/.installed:
	@test -x .venv-peer/bin/python || $(PYTHON) -m venv .venv-peer
	@echo "building the peer's environment .venv-peer: transformers 4.46.3 on torch 2.13.0 (the first time about 1 GB)"
	@.venv-peer/bin/python -m pip install -q --disable-pip-version-check "transformers==4.46.3" "torch==2.13.0" numpy
	@touch $@

bench: install .venv-peer/.installed
	@test -d $(MODEL) || { echo "make bench: no model folder $(MODEL); run make demo first, or make bench MODEL=folder" >&2; exit 2; }
	$(BIN)/jukebox bench sample $(MODEL) --device cpu --peer .venv-peer/bin/python
	$(BIN)/jukebox bench codec --device cpu --peer .venv-peer/bin/python
	$(BIN)/jukebox bench prior --device cpu --peer .venv-peer/bin/python
	$(BIN)/jukebox bench attention

# What was built or made here; .venv stays, because it costs a gigabyte to get back: make distclean removes it too.
clean:
	rm -rf demo evidence recordings musika melody wavenet model site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-peer
