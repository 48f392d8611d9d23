"""The priors equal the published ones: numbers recorded from the 2020 code with small random weights (tests/golden)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jukebox.importers.prior_keys import from_published, prior_key, published_prior_key, to_published
from jukebox.model.settings import PRIORS, prior_config
from priors.autoregressive.model import AutoregressivePrior
from tests.conformance import priors as conformance
from tests.conformance.__main__ import check, main
from tests.conformance.golden import Check, Golden

GOLDEN = Path(__file__).parents[2] / "golden"
MODELS = sorted(p.stem for p in GOLDEN.glob("*.json") if p.stem.startswith(("prior_", "upsampler_")))
PARTS = ["attn_orders", "filter_logits", "label_conditioner", "lyric_windows", "text"]
CASES = ("primed_odd_chunk7", "greedy")  # all of them: python -m tests.conformance tests/golden

CODEC = {"l_bins": 2048, "downs_t": (3, 2, 2), "strides_t": (2, 2, 2)}
SMALL_CODEC = {"l_bins": 1024, "downs_t": (5, 3), "strides_t": (2, 2)}
# parameters, names in the file
SIZES = {
    "upsampler_level_0": (CODEC, 981_298_176, 1006),
    "upsampler_level_1": (CODEC, 981_298_176, 1006),
    "prior_5b": (CODEC, 5_060_452_800, 872),
    "prior_5b_lyrics": (CODEC, 5_640_506_800, 1194),
    "prior_1b_lyrics": (CODEC, 942_643_200, 872),
    "small_prior": (SMALL_CODEC, 160_814_080, 580),
    "small_labelled_prior": (SMALL_CODEC | {"l_bins": 2048}, 162_170_880, 584),
    "small_single_enc_dec_prior": (SMALL_CODEC | {"l_bins": 2048}, 160_547_840, 584),
    "small_sep_enc_dec_prior": (SMALL_CODEC | {"l_bins": 2048}, 168_633_280, 734),
    "small_upsampler": (SMALL_CODEC, 218_015_232, 783),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_recorded_number_of_a_prior_is_met(name):
    checks = list(conformance.check_prior(Golden(GOLDEN, name), CASES))
    assert len(checks) >= 10
    assert not [str(check) for check in checks if not check.ok]


@pytest.mark.parametrize("name", PARTS)
def test_every_recorded_number_of_a_part_is_met(name):
    checks = [c for c in check(Golden(GOLDEN, name)) if c.limit is not None]
    assert len(checks) >= 2
    assert not [str(check) for check in checks if not check.ok]


BROKEN = {
    "prior_top_tiny": ["x_emb", "pos_emb", "trunk.layers.6.attn.c_proj.b", "labels.artist", "timing.total"],
    "prior_top_lyrics_encdec": ["lyric_encoder.ln.bias", "lyric_encoder.trunk.layers.0.mlp.c_fc.w", "c_enc_kv.w"],
    "upsampler_tiny_level1": ["upsampler.stage.steps.0.stack.blocks.4.dilated.weight", "upsampler.ln.weight"],
}


@pytest.mark.parametrize(("name", "part"), [(n, p) for n, parts in BROKEN.items() for p in parts])
def test_one_wrong_weight_is_seen(name, part):
    golden = Golden(GOLDEN, name)
    wrong = next(n for n in golden.state if part in prior_key(n))
    tensor = golden.state[wrong]
    row = int(golden.io["in.y"][0, 3]) if "artist" in part else int(golden.io["in.z"][0, 0]) if part == "x_emb" else 0
    used = tensor if "total" in part else tensor[row : row + 1]  # a row that the batch looks up
    used.view(len(used), -1)[:, 0] += 0.05
    assert not all(check.ok for check in logits_of(golden, conformance.load_prior(golden)))


def logits_of(golden: Golden, prior: AutoregressivePrior) -> list[Check]:
    cond = conformance.conditions(prior, golden.io.get("in.y"), golden.io.get("in.z_cond"))
    return list(conformance.check_forward(golden, prior, cond, limit=1e-4))


@pytest.mark.parametrize("name", ["prior_top_tiny", "prior_top_lyrics_single", "upsampler_tiny_level1"])
def test_two_swapped_patterns_are_seen(name):
    golden = Golden(GOLDEN, name)
    prior = conformance.load_prior(golden)
    assert all(check.ok for check in logits_of(golden, prior))
    order = prior.config.trunk.order
    swapped = AutoregressivePrior(
        replace(prior.config, trunk=replace(prior.config.trunk, order=(order[1], order[0], *order[2:])))
    )
    swapped.load_state_dict(prior.state_dict())
    assert not all(check.ok for check in logits_of(golden, swapped.eval()))


@pytest.mark.parametrize("name", MODELS)
def test_every_published_name_has_one_of_ours_and_the_reverse(name):
    golden = Golden(GOLDEN, name)
    checkpointed = bool(golden.json["hps"]["cond_c_res"])
    for published in golden.state:
        assert published_prior_key(prior_key(f"module.{published}"), checkpointed) == published
    with pytest.raises(ValueError, match="no_such_part"):
        prior_key("prior.no_such_part")
    with pytest.raises(ValueError, match="trunk.no_such_part"):
        published_prior_key("trunk.no_such_part")


def test_a_conditioner_trained_without_checkpointing_has_its_names_too():
    golden = Golden(GOLDEN, "upsampler_tiny_level0")
    prior = conformance.load_prior(golden)
    plain = to_published(prior.state_dict(), prior.config, checkpointed=False)
    assert plain.keys() == {name.replace(".blocks.", ".model.") for name in golden.state}
    again = from_published(plain, prior.config)
    assert all(torch.equal(tensor, again[name]) for name, tensor in prior.state_dict().items())


def test_an_output_table_of_its_own_in_a_tied_model_is_refused():
    golden = Golden(GOLDEN, "prior_top_unlabelled_dense")
    golden.state["prior.x_out.weight"] = golden.state["prior.x_out.weight"] + 1
    with pytest.raises(ValueError, match="output table differs"):
        conformance.load_prior(golden)


@pytest.mark.parametrize("name", PRIORS)
def test_published_sets_have_their_size(name):
    codec, parameters, names = SIZES[name]
    with torch.device("meta"):
        prior = AutoregressivePrior(prior_config(PRIORS[name], codec))
    assert sum(p.numel() for p in prior.parameters()) == parameters
    assert len(to_published(prior.state_dict(), prior.config)) == names


def test_an_attention_order_of_no_model_is_refused():
    with pytest.raises(ValueError, match="attention order 4"):
        prior_config({**PRIORS["prior_5b"], "attn_order": 4}, CODEC)


def test_conformance_prints_what_is_out_and_exits_with_1(tmp_path, capsys):
    for suffix in (".json", ".io.safetensors"):
        (tmp_path / f"filter_logits{suffix}").write_bytes((GOLDEN / f"filter_logits{suffix}").read_bytes())
    assert main(str(tmp_path)) == 0
    (tmp_path / "lyric_windows.json").write_text(
        (GOLDEN / "lyric_windows.json").read_text().replace('"first_index": 0', '"first_index": 1', 1)
    )
    assert main(str(tmp_path)) == 1
    assert "OUT" in capsys.readouterr().out
    assert main(str(tmp_path / "nothing")) == 2
