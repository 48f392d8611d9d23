"""The codec: encoders, codes, decoders, losses, and one step of training from every start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from jukebox.openai import published_vqvae_key, vqvae_config, vqvae_state
from tests.conformance.golden import Check, Golden, apart, relative
from tests.vqvae import test_golden as recorded
from vqvae.losses import Bandwidth
from vqvae.vqvae import VQVAE


def check_vqvae(golden: Golden) -> Iterator[Check]:
    """Encoders, codes and decoders of every level; losses in evaluation; one step of training from every start."""
    io, config = golden.io, vqvae_config(golden.json["hps"])
    codec = VQVAE(config)
    codec.load_state_dict(vqvae_state(golden.state, config))
    codec.eval()
    names = {published_vqvae_key(n, config.downs_t): t for n, t in codec.state_dict().items() if is_published(n)}
    same = names.keys() == golden.state.keys() and all(torch.equal(names[n], golden.state[n]) for n in names)
    yield Check("state dict back under its published names, bit for bit", float(not same), 0)
    audio = io["in.audio"].mT
    with torch.no_grad():
        for level in range(config.levels):
            latents = codec.level(level).encoder(audio)
            yield Check(f"level {level}: encoder", apart(latents, io[f"out.encoder.level{level}"]), 2e-5)
            codes = codec.encode(audio, [level])
            yield Check(f"level {level}: codes that differ", apart(codes[level], io[f"out.codes.level{level}"]), 0)
            heard = codec.decode(codes, level).mT
            yield Check(f"level {level}: decoder", apart(heard, io[f"out.decode.start_level{level}"]), 2e-5)
            heard = codec.decode({level: io[f"in.random_codes.level{level}"]}, level).mT
            yield Check(f"level {level}: any codes", apart(heard, io[f"out.random_decode.level{level}"]), 2e-5)
    bandwidth = Bandwidth(**golden.json["bandwidth"])
    for name, expected in golden.json["eval_forward"].items():
        changes = {**recorded.WEIGHTS[name.split("_")[0]], "spectral_is_convergence": "relative" in name}
        logs = recorded.variant(codec, **changes).loss(audio, bandwidth=bandwidth)
        yield Check(f"evaluation, {name} (relative)", scalars(logs, expected), 1e-5)
    for name, expected in golden.json["train_forward"].items():
        yield from check_training_step(golden, codec, name, expected, bandwidth)


def is_published(ours: str) -> bool:
    return not ours.endswith((".k_sum", ".k_elem", ".initialised"))


def scalars(logs: Mapping[str, Tensor], expected: Mapping[str, Any]) -> float:
    """The largest relative error of a loss or metric."""
    names = [name for name, value in expected.items() if isinstance(value, float | int) and name in recorded.SCALARS]
    return max(relative(logs[recorded.SCALARS[name]].item(), expected[name]) for name in names)


def check_training_step(
    golden: Golden, codec: VQVAE, name: str, expected: Mapping[str, Any], bandwidth: Bandwidth
) -> Iterator[Check]:
    case, loss_fn = name.split(".")
    io, audio = golden.io, golden.io["in.audio"].mT
    codec = recorded.variant(codec, **recorded.WEIGHTS[loss_fn]).train()
    for level in range(codec.config.levels):
        book = codec.level(level).codebook
        book.threshold = golden.json["threshold"][f"{case}.level{level}"]
        book.draw = recorded.recorded_draw(io, case, level)
        if case == "fresh_init":
            book.initialised.fill_(False)
            for buffer in (book.k, book.k_sum, book.k_elem):
                buffer.zero_()
        elif case != "restored_unit":
            book.restore(len(audio) * audio.shape[-1] // codec.config.hops[level] / codec.config.bins)
    logs = codec.loss(audio, bandwidth=bandwidth)
    yield Check(f"training, {name} (relative)", scalars(logs, expected), 1e-5)
    logs["loss"].backward()
    norms = {published_vqvae_key(n, codec.config.downs_t): p.grad for n, p in codec.named_parameters()}
    error = max(relative(0.0 if g is None else g.norm().item(), expected["grad_norms"][n]) for n, g in norms.items())
    yield Check(f"training, {name}: gradient norms (relative)", error, 5e-4)
    for buffer in ("k_sum", "k_elem"):
        at = [(getattr(codec.level(l).codebook, buffer), f"level{l}.{buffer}") for l in range(codec.config.levels)]
        error = max(apart(ours, io[f"out.train.{case}.{key}"]) for ours, key in at)
        yield Check(f"training, {name}: {buffer}", error, 2e-5)
