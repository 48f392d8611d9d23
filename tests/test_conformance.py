"""The conformance command: it knows a golden by its contents, of any name and shape, and sees one wrong number.

Goldens of other shapes are written here by our own models under the published names. That proves nothing of their numbers
(tests/golden does), but that nothing in the command is tied to one size, name or number of levels, items and characters.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jukebox.importers.prior_keys import to_published
from jukebox.importers.vqvae_keys import published_vqvae_key
from jukebox.model.settings import PRIORS, VQVAE_DEFAULTS, prior_config, vqvae_config
from priors.autoregressive.model import AutoregressivePrior
from priors.prior import Batch
from tests.conformance import codec as codecs
from tests.conformance.__main__ import check, kind_of, main
from tests.conformance.golden import Golden
from tests.conformance.priors import conditions
from vqvae.jukebox.losses import Bandwidth
from vqvae.jukebox.vqvae import VQVAE

GOLDEN = Path(__file__).parent / "golden"
SUFFIXES = (".json", ".io.safetensors", ".state.safetensors")


def copy(name: str, folder: Path, new: str) -> Path:
    for suffix in SUFFIXES:
        if (GOLDEN / f"{name}{suffix}").is_file():
            (folder / f"{new}{suffix}").write_bytes((GOLDEN / f"{name}{suffix}").read_bytes())
    return folder / new


def write(folder: Path, name: str, info: dict[str, Any], io: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> Golden:
    (folder / f"{name}.json").write_text(json.dumps(info))
    for suffix, tensors in (("io", io), ("state", state)):
        separate = {n: t.detach().clone().contiguous() for n, t in tensors.items()}
        save_file(separate, folder / f"{name}.{suffix}.safetensors")
    return Golden(folder, name)


def out(golden: Golden) -> list[str]:
    return [str(result) for result in check(golden) if not result.ok]


# -------------------- names


def test_a_golden_is_known_by_what_it_holds_whatever_its_name(tmp_path):
    names = sorted(path.stem for path in GOLDEN.glob("*.json"))
    for number, name in enumerate(names):
        copy(name, tmp_path, f"g{number}")
        assert kind_of(Golden(tmp_path, f"g{number}")) is kind_of(Golden(GOLDEN, name)) is not None, name
    assert len({kind_of(Golden(GOLDEN, name)) for name in names}) == 9


def test_a_folder_of_other_names_passes_and_prints_them(tmp_path, capsys):
    for name, new in (("prior_top_unlabelled_dense", "prior_big"), ("filter_logits", "a"), ("optim", "b"), ("schedule", "c")):
        copy(name, tmp_path, new)
    (tmp_path / "note.json").write_text('{"note": "nothing"}')
    assert main(str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "prior_big\n  ok" in printed and ", 0 out" in printed and "this kind of golden is not known" in printed


# -------------------- one wrong number


def test_one_altered_weight_is_exit_code_1(tmp_path, capsys):
    path = copy("prior_top_unlabelled_dense", tmp_path, "p")
    state = load_file(f"{path}.state.safetensors")
    state["prior.transformer._attn_mods.1.mlp.c_fc.w"][0, 0] += 0.01
    save_file(state, f"{path}.state.safetensors")
    assert main(str(tmp_path)) == 1
    assert "OUT   logits" in capsys.readouterr().out


@pytest.mark.parametrize("other", [1, 6, 4])
def test_another_attention_order_is_seen(tmp_path, other):
    """Order 1 has the same tensors; 6 needs others, and 4 is of no model: a line for each, no traceback."""
    path = copy("prior_top_labelled_shared", tmp_path, "p")
    info = json.loads(Path(f"{path}.json").read_text())
    assert info["hps"]["attn_order"] == 2
    info["hps"]["attn_order"] = other
    del info["derived"]  # the computation must decide, not the settings
    Path(f"{path}.json").write_text(json.dumps(info))
    wrong = out(Golden(tmp_path, "p"))
    assert any("logits" in line for line in wrong) if other == 1 else len(wrong) == 1 and "cannot be compared" in wrong[0]


def test_two_swapped_stacks_are_seen(tmp_path):
    path = copy("attn_orders", tmp_path, "o")
    state = load_file(f"{path}.state.safetensors")
    keys = [n.removeprefix("order2.") for n in state if n.startswith("order2.")]
    for key in keys:
        state[f"order2.{key}"] = state[f"order2.{key}"].flip(0).contiguous()
    save_file(state, f"{path}.state.safetensors")
    info = json.loads(Path(f"{path}.json").read_text())
    Path(f"{path}.json").write_text(json.dumps({"order2": info["order2"], "order12": info["order12"]}))
    wrong = out(Golden(tmp_path, "o"))
    assert wrong and all("order2" in line for line in wrong)


@pytest.mark.parametrize("change", ["windows", "rates", "average"])
def test_one_wrong_number_of_a_schedule_is_seen(tmp_path, change):
    path = copy("schedule" if change == "windows" else "optim", tmp_path, "s")
    info = json.loads(Path(f"{path}.json").read_text())
    if change == "windows":
        info["sample_level_trace"][0]["calls"][0]["prime"] += 1
    elif change == "rates":
        info["lr_curves"][2]["values"][30] *= 1.001
    else:
        info["plain"]["ema_mu"] = 0.96
    Path(f"{path}.json").write_text(json.dumps(info))
    assert len(out(Golden(tmp_path, "s"))) == 1


# -------------------- other shapes

CODECS = {
    3: {"l_bins": 17, "levels": 3, "downs_t": (1, 2, 1), "strides_t": (4, 2, 2)},
    2: {"l_bins": 9, "levels": 2, "downs_t": (2, 1), "strides_t": (2, 4)},
}
LABELS = {"y_bins": (6, 7), "t_bins": 9, "min_duration": 0.01, "max_duration": 2.0, "max_bow_genre_size": 3}
NARROW = {"prior_width": 24, "prior_depth": 5, "heads": 3, "m_attn": 0.5}
# name -> the set it is shrunk from, levels of its codec, items, what differs
SHAPES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "prior_top_big": ("prior_5b", 3, 1, {**NARROW, **LABELS, "n_ctx": 60, "blocks": 5, "m_mlp": 2.0}),
    "one_stream": ("prior_1b_lyrics", 3, 3, {
        **NARROW, **LABELS, "max_bow_genre_size": 1, "prior_depth": 17, "n_ctx": 38, "n_tokens": 10, "n_vocab": 11, "blocks": 4}),
    "with_encoder": ("prior_5b_lyrics", 3, 2, {
        **NARROW, **LABELS, "prior_depth": 19, "n_ctx": 36, "blocks": 6, "n_tokens": 14, "n_vocab": 12, "prime_width": 16,
        "prime_depth": 2, "prime_heads": 2, "prime_blocks": 7}),
    "upsampler_wide_level1": ("upsampler_level_1", 3, 1, {
        **NARROW, **LABELS, "n_ctx": 40, "blocks": 8, "cond_width": 10, "cond_depth": 3, "cond_m_conv": 2.0, "cond_c_res": 0}),
    "upsampler_of_two_levels": ("small_upsampler", 2, 2, {**NARROW, "n_ctx": 32, "blocks": 4, "cond_width": 6, "cond_depth": 2}),
    "top_of_two_levels": ("small_labelled_prior", 2, 2, {**NARROW, **LABELS, "level": 1, "n_ctx": 30, "blocks": 3, "res_scale": True}),
}  # fmt: skip


def label_rows(hps: dict[str, Any], items: int, hop: int) -> torch.Tensor | None:
    """Random rows as the published code lays them out; the last item has no genre."""
    if not hps.get("labels", True):
        return None
    length, rows = hps["n_ctx"] * hop, []
    for i in range(items):
        genres = [] if i == items - 1 else [i % hps["y_bins"][0]]
        genres += [-1] * (hps["max_bow_genre_size"] - len(genres))
        lyric_tokens = torch.randint(0, hps["n_vocab"], (hps["n_tokens"],)).tolist() if hps.get("n_tokens") else []
        rows.append([length * 3 + 999, i * hop, length, i % hps["y_bins"][1], *genres, *lyric_tokens])
    return torch.tensor(rows)


def record(folder: Path, name: str, seed: int = 0) -> Golden:
    """A golden as our own model gives it: the parallel pass, from which the steps of sampling are read as well."""
    base, levels, items, changes = SHAPES[name]
    hps = {"cond_c_res": 1, **PRIORS[base], **changes}
    config = prior_config(hps, CODECS[levels])
    torch.manual_seed(seed)
    prior = AutoregressivePrior(config).eval()
    for p in prior.parameters():
        p.data = torch.randn_like(p) * (0.5 if p.ndim == 1 else p.shape[0] ** -0.5)
    z = torch.randint(config.bins, (items, config.n_ctx))
    above = torch.randint(config.bins, (items, config.n_ctx // config.above.ratio)) if config.above else None
    y = label_rows(hps, items, config.hop)
    given = {"in.z": z, "in.z_cond": above, "in.y": y}
    cond = conditions(prior, y, above)
    logits, merged = prior(z, cond), prior.tokens(z, prior.encode_conditions(cond, items))
    nll = torch.nn.functional.cross_entropy(logits.mT, merged, reduction="none") / math.log(2)
    io = {n: t for n, t in given.items() if t is not None} | {"out.logits": logits, "out.token_nll_bits": nll}
    primes, sampling = {"nothing": 0, "odd": 7, "long": config.n_ctx - 1}, {}
    for case, prime in primes.items():
        sampling[case] = {"prime_len": prime}
        io |= {f"out.sample.{case}.tokens": z, f"out.sample.{case}.step_logits": logits}
        if prior.lyric_prefix:
            io[f"out.sample.{case}.merged_tokens"] = merged
    loss = prior.loss(Batch({config.stream: z}, cond))
    loss["loss"].backward()
    grads = {n: torch.zeros(0) if p.grad is None else p.grad for n, p in prior.named_parameters()}
    norms = {n: g.norm().item() for n, g in to_published(grads, config, bool(hps["cond_c_res"])).items()}
    info = {
        "hps": hps, "vqvae_hps": CODECS[levels], "sampling": sampling, "grad_norms": norms,
        "losses": {"loss": loss["loss"].item(), "gen_loss": loss["bits"].item()},
    }  # fmt: skip
    return write(folder, name, info, io, to_published(prior.state_dict(), config, bool(hps["cond_c_res"])))


@pytest.mark.parametrize("name", SHAPES)
def test_priors_of_other_shapes_pass_and_one_wrong_weight_does_not(tmp_path, name):
    golden = record(tmp_path, name)
    assert kind_of(golden) is kind_of(Golden(GOLDEN, "prior_top_tiny"))
    assert len(list(check(golden))) >= 9 and not out(golden)
    layer = golden.state["prior.transformer._attn_mods.3.attn.c_attn.w"]
    layer[0, -1] += 0.02  # of the values
    assert any("logits a step" in line for line in out(golden))


def test_a_codec_of_two_levels_and_other_shapes_passes_and_one_wrong_weight_does_not(tmp_path):
    hps = VQVAE_DEFAULTS | {
        "levels": 2, "downs_t": (2, 1), "strides_t": (2, 4), "l_bins": 9, "width": 6, "depth": 2, "emb_width": 5, "loss_fn": "lmix",
        "lmix_l2": 1.0, "lmix_linf": 0.02, "linf_k": 99, "hvqvae_multipliers": (1, 2), "dilation_growth_rate": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = vqvae_config(hps)
    codec, audio = VQVAE(config).eval(), torch.randn(3, 1, 2048) * 0.3
    for stream in codec.spec.names:
        codec.autoencoder(stream).codebook.k.normal_()
        codec.autoencoder(stream).codebook.restore()
    codes = codec.encode(audio, codec.spec.names)
    io = {"in.audio": audio.mT}
    for level, (stream, z) in enumerate(codes.items()):
        io |= {f"out.encoder.level{level}": codec.level(level).encoder(audio), f"out.codes.level{level}": z}
        io[f"out.decode.start_level{level}"] = codec.decode(codes, stream).mT
    logs = codec.loss(audio, bandwidth=Bandwidth(0.3, 0.1, 40.0))
    named = {"loss": "loss", "recons_loss_l1": "recons_loss_l0", "recons_loss_l2": "recons_loss_l1", "l1_loss": "l1_loss_l0"}
    info = {
        "hps": hps, "bandwidth": {"l1": 0.3, "l2": 0.1, "spec": 40.0}, "train_forward": {},
        "eval_forward": {"lmix": {theirs: logs[ours].item() for theirs, ours in named.items()}},
    }  # fmt: skip
    state = {n: t for n, t in codec.state_dict().items() if not n.endswith(codecs.SUMS)}
    state = {published_vqvae_key(n, config.downs_t): t for n, t in state.items()}
    golden = write(tmp_path, "vqvae_two_levels", info, io, state)
    assert len(list(check(golden))) == 8 and not out(golden)
    golden.state["decoders.1.out.weight"][0, 0, 0] += 0.02
    assert out(golden)
