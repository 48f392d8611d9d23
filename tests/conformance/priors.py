"""Priors and bare stacks: logits, losses, gradients, conditioners, alignment, and the cached path at every step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jukebox.importers.prior_keys import from_published, to_published
from jukebox.model.settings import prior_config
from priors.autoregressive.config import AutoregressiveParams
from priors.autoregressive.model import AutoregressivePrior
from priors.autoregressive.state import DecodeState
from priors.conditioning.conditions import Conditions, Lyrics
from priors.noise import Generators
from priors.prior import Batch, Known, Window, sample_window
from priors.transformer.config import ORDERS, TrunkConfig
from priors.transformer.trunk import Transformer
from tests.conformance.golden import Check, Golden, apart, apart_of_largest, relative

# attention kinds as the published code numbers them; 4 and 5 are of no model
KINDS = {0: "dense", 1: "row", 2: "column", 3: "previous_row", 6: "cross", 7: "prime"}


def load_prior(golden: Golden) -> AutoregressivePrior:
    """The golden's model as ours."""
    config = prior_config(golden.json["hps"], golden.json["vqvae_hps"])
    prior = AutoregressivePrior(config).eval()
    prior.load_state_dict(from_published(golden.state, config))
    return prior


def conditions(prior: AutoregressivePrior, y: Tensor | None, above: Tensor | None) -> Conditions:
    """Published label rows (total, offset, length, artist, genres.., characters..) as conditions."""
    if y is None or not prior.config.labels:
        return Conditions(above=above)
    timing, artist, genres, lyric_tokens = y.split([3, 1, prior.config.labels.max_genres, prior.config.n_tokens], dim=1)
    lyrics = Lyrics(lyric_tokens, torch.full(lyric_tokens.shape, torch.nan)) if prior.config.lyrics else None
    return Conditions(artist[:, 0], genres, timing, lyrics, above)


def check_prior(golden: Golden, cases: Collection[str] | None = None) -> Iterator[Check]:
    """Everything that a prior's golden records; `cases` picks some of its samplings."""
    prior = load_prior(golden)
    cond = conditions(prior, golden.io.get("in.y"), golden.io.get("in.z_cond"))
    # above the reference's own noise, below what a wrong epsilon in a norm does
    limit = min(1e-4, max(2e-5, 4 * golden.json.get("noise_floor_sampling_vs_forward", 1.0)))
    yield from check_names(golden, prior)
    yield check_patterns(prior.trunk, golden.json.get("derived", {}).get("attn_funcs", []), "patterns")
    yield from check_forward(golden, prior, cond, limit)
    yield from check_gradients(golden, prior, cond)
    for case, params in golden.json["sampling"].items():
        if cases is None or case in cases:
            yield from check_sampling(golden, prior, cond, case, params, limit)


def sample_greedily(prior: AutoregressivePrior, window: Window, prompt: Tensor, cond: Conditions) -> Tensor:
    """The codes of a window that begins with a prompt, the most likely ones, as the published code samples them."""
    known, noise = Known.prefix(prior.stream, prompt, window.length), Generators([torch.Generator()] * len(prompt))
    params = AutoregressiveParams(temperature=0.0, published=True)
    return sample_window(prior, window, known, cond, noise, {prior.stream: params})[prior.stream]


def check_names(golden: Golden, prior: AutoregressivePrior) -> Iterator[Check]:
    back = to_published(prior.state_dict(), prior.config, checkpointed=bool(golden.json["hps"]["cond_c_res"]))
    same = back.keys() == golden.state.keys() and all(torch.equal(back[n], golden.state[n]) for n in back)
    yield Check("state dict back under its published names, bit for bit", float(not same), 0)


def check_patterns(trunk: Transformer, kinds: Sequence[int], what: str) -> Check:
    """Whether the layers attend as recorded; that they compute the same is checked apart."""
    ours = [block.attn.pattern for block in trunk.blocks]
    wrong = [name != KINDS.get(kind) for name, kind in zip(ours, kinds, strict=True)] if kinds else []
    return Check(f"{what}: {len(kinds)} layers, that differ", sum(wrong), 0)


@torch.no_grad()
def check_forward(golden: Golden, prior: AutoregressivePrior, cond: Conditions, limit: float) -> Iterator[Check]:
    io, z = golden.io, golden.io["in.z"]
    conditioning = prior.encode_conditions(cond, len(z))
    tokens, logits = prior.tokens(z, conditioning), prior(z, cond)
    steps = None if conditioning.steps is None else conditioning.steps[:, prior.lyric_prefix :]
    kept = {
        "logits": logits,
        "token_nll_bits": torch.nn.functional.cross_entropy(logits.mT, tokens, reduction="none") / math.log(2),
        "x_cond": steps,
        "y_cond": conditioning.start,
        "encoder_kv": conditioning.encoded,
        "merged_tokens": tokens,
    }
    if "in.y_empty_genre" in io:
        empty = conditions(prior, io["in.y_empty_genre"], cond.above)
        kept["y_cond_empty_genre"] = prior.encode_conditions(empty, len(z)).start
    if "out.encoder_acts" in io:
        encoder = prior.lyric_encoder
        kept["encoder_acts"] = encoder.trunk(encoder.embed(cond.lyrics.ids))
    if "out.attn_alignment_layer" in io:
        kept["attn_alignment_layer"] = prior.lyric_attention(z, cond, golden.json["hps"]["alignment_layer"])
    for name, ours in kept.items():
        if ours is not None and f"out.{name}" in io:
            yield Check(name, apart(ours, io[f"out.{name}"]), 0 if name == "merged_tokens" else limit)
    bits = prior.nll({prior.stream: z}, cond)[prior.stream]
    yield Check("bits per code", apart(bits, io["out.token_nll_bits"][:, prior.lyric_prefix :]), limit)


def check_gradients(golden: Golden, prior: AutoregressivePrior, cond: Conditions) -> Iterator[Check]:
    """Losses, and the gradient of every parameter, in training mode."""
    prior.train().zero_grad()
    loss = prior.loss(Batch({prior.stream: golden.io["in.z"]}, cond))
    loss["loss"].backward()
    prior.eval()
    names = {"loss": "loss", "bpd": "bits", "gen_loss": "bits", "prime_loss": "lyric_bits"}
    recorded = {names[n]: value for n, value in golden.json["losses"].items() if names[n] in loss}
    error = max(relative(loss[name].item(), value) for name, value in recorded.items())
    yield Check("losses (relative)", error, 1e-5)
    grads = {name: torch.zeros(0) if p.grad is None else p.grad for name, p in prior.named_parameters()}
    named = to_published(grads, prior.config, bool(golden.json["hps"]["cond_c_res"]))
    norms = {name: norm or 0.0 for name, norm in golden.json["grad_norms"].items()}
    least = 1e-4 * max(norms.values())  # what is smaller is mostly rounding
    error = max(abs(named[n].norm().item() - norm) / max(norm, least) for n, norm in norms.items())
    yield Check("gradient norms (relative)", error, 1e-4)
    full = {n.removeprefix("grad."): g for n, g in golden.io.items() if n.startswith("grad.")}
    if full:
        error = max(apart_of_largest(named[n], g) for n, g in full.items())
        yield Check("full gradients (of their largest entry)", error, 1e-4)


@torch.no_grad()
def check_sampling(
    golden: Golden, prior: AutoregressivePrior, cond: Conditions, case: str, params: Mapping[str, Any], limit: float
) -> Iterator[Check]:
    """The cached path, teacher forced from a prime: logits at every position; where greedy, the codes themselves."""
    primed = params["prime_len"]
    codes, expected = (golden.io[f"out.sample.{case}.{kind}"] for kind in ("tokens", "step_logits"))
    conditioning = prior.encode_conditions(cond, len(codes))
    tokens = golden.io.get(f"out.sample.{case}.merged_tokens", codes)
    first = prior.lyric_prefix + primed
    x = prior.embed(tokens[:, :first], conditioning)
    caches = prior.trunk.caches(x, conditioning.encoded, conditioning.distance)
    y = prior.trunk.prefill(x, caches)
    logits = [prior.head(y, None if conditioning.steps is None else conditioning.steps[:, : x.shape[1]])]
    state = DecodeState(conditioning, caches, x.shape[1], None, AutoregressiveParams(), torch.zeros(len(x), 0))
    for token in tokens[:, first:-1].unbind(1):
        prior.advance(state, token)
        assert state.output is not None
        logits.append(state.output[:, None])
    yield Check(f"{case}: logits a step", apart(torch.cat(logits, 1), expected), limit)
    if params.get("top_k") == 1:
        made = sample_greedily(prior, Window(0, codes.shape[1], codes.shape[1]), codes[:, :primed], cond)
        wrong = (made != codes).sum().item()
        yield Check(f"{case}: codes that differ", wrong, 0)


@torch.no_grad()
def check_orders(golden: Golden) -> Iterator[Check]:
    """Bare stacks of every attention order, in parallel and from primes by steps."""
    for name, shape in golden.json.items():
        order = ORDERS.get(int(name.removeprefix("order")))
        if order is None:
            yield Check(f"{name}: skipped, no model uses it")
            continue
        state = {n.removeprefix(f"{name}."): t for n, t in golden.state.items() if n.startswith(f"{name}.")}
        config = TrunkConfig(
            n_ctx=shape["n_ctx"], width=shape["width"], depth=shape["depth"], heads=shape["heads"], order=order,
            blocks=shape["blocks"] or 1, prime=shape["prime_len"] or 0,
            m_attn=state["_attn_mods.0.attn.c_proj.w"].shape[0] / shape["width"],
            m_mlp=state["_attn_mods.0.mlp.c_fc.w"].shape[1] / shape["width"],
        )  # fmt: skip
        trunk = Transformer(config).eval()
        trunk.load_state_dict({n.replace("_attn_mods.", "layers."): t for n, t in state.items()})
        yield check_patterns(trunk, shape["attn_funcs"], name)
        x, encoded = golden.io[f"in.{name}.x"], golden.io.get(f"in.{name}.encoder_kv")
        expected = golden.io[f"out.{name}.y"]
        limit = max(2e-5, 5e-6 * expected.abs().max().item())
        yield Check(f"{name}: whole", apart(trunk(x, encoded), expected), limit)
        for prime in (min(config.block + 1, x.shape[1] // 2), x.shape[1] - 1):
            caches = trunk.caches(x, encoded)
            parts = [trunk.prefill(x[:, :prime], caches)]
            parts += [trunk.step(x[:, t : t + 1], caches, torch.tensor([t])) for t in range(prime, x.shape[1])]
            yield Check(f"{name}: {prime} steps at once, then one by one", apart(torch.cat(parts, 1), expected), limit)
