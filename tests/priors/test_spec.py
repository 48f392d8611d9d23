"""What every prior has: a configuration that is json and needs no torch, streams by name, batches, protocols."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from jukebox.model.presets import find
from priors.conditioning.conditions import Conditions
from priors.masked.config import MaskedConfig
from priors.prior import Batch, HasHiddenStates, HasTrunk, ScoresLyrics, SupportsMuon
from priors.registry import PRIOR_CONFIGS, PRIOR_PARAMS, PRIORS
from priors.spec import PriorConfig, PriorSpec, TokenParams

PARTS: dict[str, PriorConfig] = {name: part.for_corpus(5, 4) for name, part in find("test").priors.items()}
AUTOREGRESSIVE = ["prior_2", "prior_1", "prior_0"]
PROTOCOLS = (HasTrunk, HasHiddenStates, ScoresLyrics)
MODULES = (
    "vqvae.registry", "vqvae.streams", "vqvae.jukebox.config", "priors.registry", "priors.spec",
    "priors.autoregressive.config", "priors.masked.config", "jukebox.model.info", "jukebox.model.presets",
)  # fmt: skip


def through_json(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


def format_1(config: PriorConfig) -> dict[str, Any]:
    """The values that format 1 had for a configuration: levels instead of streams, another name of `head_width`."""
    values = config.to_json()
    if isinstance(config, MaskedConfig):
        del values["streams"]
        return values | {"fine": values.pop("head_width")}
    del values["stream"], values["reads"]
    return {"level": int(config.spec.writes[0].removeprefix("vq."))} | values


@pytest.mark.parametrize("name", PARTS)
def test_a_configuration_comes_back_from_json_of_either_format(name):
    config, kind = PARTS[name], PRIOR_CONFIGS.load(PARTS[name].kind)
    assert kind.from_json(through_json(config.to_json())) == config
    old = through_json(format_1(config))
    assert ("level" in old) == (name in AUTOREGRESSIVE) and ("fine" in old) == (name == "masked")
    assert kind.from_json(old) == config


def test_a_prior_reads_and_writes_streams_by_name():
    specs = {name: part.spec for name, part in PARTS.items()}
    assert specs["prior_2"] == PriorSpec((), ("vq.2",), 32, "prefix")
    assert specs["prior_1"] == PriorSpec(("vq.2",), ("vq.1",), 32, "prefix")
    assert specs["prior_0"] == PriorSpec(("vq.1",), ("vq.0",), 32, "prefix")
    every = ("vq.0", "vq.1", "vq.2")
    assert specs["masked"] == PriorSpec(every, every, 32, "any")
    assert [PARTS[name].ratio for name in AUTOREGRESSIVE] == [1, 4, 4]
    assert [PARTS["masked"].frames(stream) for stream in every] == [512, 128, 32]


def test_tables_grow_to_a_corpus_and_nothing_else_changes():
    for name, part in find("test").priors.items():
        grown = part.for_corpus(7, 3, 50)
        assert grown.labels is not None and (grown.labels.artists, grown.labels.genres) == (7, 3)
        assert grown.lyrics is None or grown.lyrics.vocabulary == 50, name
        old = part.for_corpus(7, 3)
        assert old.lyrics == part.lyrics and old.spec == part.spec == grown.spec


def test_each_kind_has_the_optional_protocols_that_verbs_ask_for():
    priors = {name: PRIORS.load(part.kind)(part) for name, part in PARTS.items()}
    for protocol in PROTOCOLS:
        assert [name for name, prior in priors.items() if isinstance(prior, protocol)] == AUTOREGRESSIVE, protocol


def test_muon_trains_the_matrices_of_all_blocks_and_neither_embeddings_nor_heads_nor_vectors():
    for part in PARTS.values():
        prior = PRIORS.load(part.kind)(part)
        assert isinstance(prior, SupportsMuon)
        chosen = {id(p) for p in prior.muon_parameters()}
        names = {name for name, p in prior.named_parameters() if id(p) in chosen}
        assert names == {name for name, _ in prior.named_parameters() if "trunk.layers." in name and name.endswith(".w")}
        assert len(names) >= 4 and all(p.ndim == 2 for p in prior.muon_parameters())


def test_each_kind_has_its_own_sampling_parameters():
    fields = {kind: [field.name for field in dataclasses.fields(PRIOR_PARAMS.load(kind))] for kind in PRIORS.table}
    common = [field.name for field in dataclasses.fields(TokenParams)]
    assert fields == {
        "autoregressive": [*common, "guidance", "published"],
        "tokens": [*common, "guidance"],
        "masked": [*common, "passes", "noise"],
        "wavenet": ["temperature", "top_k", "top_p", "tempo", "density"],
        "gan": ["truncation", "loop", "tempo", "density", "style"],
        "diffusion": ["steps", "token_guidance", "schedule"],
    }


def test_a_batch_moves_as_a_whole():
    codes, known = torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool)
    batch = Batch({"vq.0": codes}, Conditions(artist=codes[:, 0]), {"vq.0": known}, {"vq.0": ~known}, {"vq.0": 4.0})
    moved = batch.to("meta")
    assert moved.known and moved.asked and moved.cond.artist is not None and moved.counts == batch.counts
    tensors = [moved.sequences["vq.0"], moved.known["vq.0"], moved.asked["vq.0"], moved.cond.artist]
    assert all(tensor.is_meta for tensor in tensors)
    assert Batch({}, Conditions()).to("meta").known is None


def test_configurations_import_no_torch():
    code = f"import sys, {', '.join(MODULES)}; assert 'torch' not in sys.modules, 'torch was imported'"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    control = subprocess.run([sys.executable, "-c", code.replace("sys, ", "sys, priors.prior, ")], capture_output=True)
    assert control.returncode != 0 and b"torch was imported" in control.stderr
