"""The codec: encoders, codes, decoders, losses, spectra, and one step of training from every start."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from jukebox.importers.vqvae_keys import published_vqvae_key, vqvae_state
from jukebox.model.settings import vqvae_config
from tests.conformance.golden import Check, Golden, apart, apart_of_largest, relative
from vqvae.jukebox import losses, quantize
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.losses import Bandwidth
from vqvae.jukebox.vqvae import VQVAE
from vqvae.stft import magnitudes, spectral_convergence

SUMS = (".k_sum", ".k_elem", ".initialised")  # the published files do not hold them


def load_codec(golden: Golden) -> VQVAE:
    """The golden's model as ours."""
    config = vqvae_config(golden.json["hps"])
    codec = VQVAE(config)
    codec.load_state_dict(vqvae_state(golden.state, config))
    return codec.eval()


def check_vqvae(golden: Golden) -> Iterator[Check]:
    """Everything that a codec's golden records."""
    codec = load_codec(golden)
    yield from check_names(golden, codec)
    yield from check_levels(golden, codec)
    audio, bandwidth = golden.io["in.audio"].mT, Bandwidth(**golden.json["bandwidth"])
    for name, expected in golden.json["eval_forward"].items():
        logs = variant(golden, codec, name).loss(audio, bandwidth=bandwidth)
        yield Check(f"evaluation, {name} (relative)", scalars(logs, expected, codec.config.levels), 1e-5)
    for name, expected in golden.json["train_forward"].items():
        yield from check_training_step(golden, codec, name, expected, bandwidth)
    yield from check_spectra(golden, codec.config)


def check_names(golden: Golden, codec: VQVAE) -> Iterator[Check]:
    state = {name: tensor for name, tensor in codec.state_dict().items() if not name.endswith(SUMS)}
    names = {published_vqvae_key(name, codec.config.downs_t): tensor for name, tensor in state.items()}
    same = names.keys() == golden.state.keys() and all(torch.equal(names[n], golden.state[n]) for n in names)
    yield Check("state dict back under its published names, bit for bit", float(not same), 0)


@torch.no_grad()
def check_levels(golden: Golden, codec: VQVAE) -> Iterator[Check]:
    io, audio = golden.io, golden.io["in.audio"].mT
    for level, stream in enumerate(codec.spec.names):
        latents = codec.autoencoder(stream).encoder(audio)
        error = apart_of_largest(latents, io[f"out.encoder.level{level}"])
        yield Check(f"level {level}: encoder (of the largest)", error, 1e-5)
        codes = codec.encode(audio, [stream])
        yield Check(f"level {level}: codes that differ", apart(codes[stream], io[f"out.codes.level{level}"]), 0)
        made = codec.decode(codes, stream).mT
        error = apart_of_largest(made, io[f"out.decode.start_level{level}"])
        yield Check(f"level {level}: decoder (of the largest)", error, 1e-5)
        if (name := f"in.random_codes.level{level}") in io:
            made = codec.decode({stream: io[name]}, stream).mT
            error = apart_of_largest(made, io[f"out.random_decode.level{level}"])
            yield Check(f"level {level}: any codes (of the largest)", error, 1e-5)


# -------------------- losses


def variant(golden: Golden, codec: VQVAE, name: str) -> VQVAE:
    """The same weights under another loss; `name` is a published loss_fn, or that and `_relative_spectral`."""
    loss_fn, hps = name.removesuffix("_relative_spectral"), golden.json["hps"]
    config = vqvae_config({**hps, "loss_fn": loss_fn, "use_nonrelative_specloss": loss_fn == name})
    other = VQVAE(replace(codec.config, l1=config.l1, l2=config.l2, linf=config.linf,
                          spectral_is_convergence=config.spectral_is_convergence))  # fmt: skip
    other.load_state_dict(codec.state_dict())
    return other.train(codec.training)


def our_name(published: str, levels: int) -> str:
    """Our name of a published scalar: their levels count from 1, and four metrics are those of level 0."""
    if found := re.fullmatch(r"(recons_loss|spectral_loss|multispectral_loss)_l(\d+)", published):
        assert 1 <= int(found[2]) <= levels
        return f"{found[1]}_l{int(found[2]) - 1}"
    return f"{published}_l0" if published in ("spectral_convergence", "l1_loss", "l2_loss", "linf_loss") else published


def scalars(logs: Mapping[str, Tensor], expected: Mapping[str, Any], levels: int) -> float:
    """The largest relative error of the recorded losses and metrics."""
    numbers = {name: value for name, value in expected.items() if isinstance(value, float | int)}
    return max(relative(logs[our_name(name, levels)].item(), value) for name, value in numbers.items())


# -------------------- a step of training


def check_training_step(
    golden: Golden, codec: VQVAE, name: str, expected: Mapping[str, Any], bandwidth: Bandwidth
) -> Iterator[Check]:
    case, loss_fn = name.split(".")
    audio, levels = golden.io["in.audio"].mT, range(codec.config.levels)
    codec = variant(golden, codec, loss_fn).train()
    for level in levels:
        begin(golden, codec, case, level, tokens=len(audio) * audio.shape[-1] // codec.config.hops[level])
    with mock.patch.object(quantize, "nearest", nearest_as_recorded(golden, codec, case)):
        logs = codec.loss(audio, bandwidth=bandwidth)
    yield Check(f"training, {name} (relative)", scalars(logs, expected, codec.config.levels), 1e-5)
    logs["loss"].backward()
    grads = {published_vqvae_key(n, codec.config.downs_t): p.grad for n, p in codec.named_parameters()}
    error = max(relative(0.0 if g is None else g.norm().item(), expected["grad_norms"][n]) for n, g in grads.items())
    yield Check(f"training, {name}: gradient norms (relative)", error, 5e-4)
    full = {n.removeprefix("grad."): g for n, g in golden.io.items() if n.startswith("grad.")}
    if full and name == "restored_unit.lmix":
        error = max(apart_of_largest(grads[n], g) for n, g in full.items())
        yield Check(f"training, {name}: full gradients (of their largest entry)", error, 5e-4)
    at = {level: f"out.train.{case}.level{level}" for level in levels}
    for buffer in ("k_sum", "k_elem"):
        ours = [getattr(codec.level(level).codebook, buffer) for level in levels]
        error = max(apart_of_largest(ours[level], golden.io[f"{at[level]}.{buffer}"]) for level in levels)
        yield Check(f"training, {name}: {buffer} (of the largest)", error, 1e-5)
    books = [(codec.level(level).codebook, codebook_after(golden, case, level)) for level in levels]
    error = max(apart_of_largest(book.k, after) for book, after in books)
    yield Check(f"training, {name}: codebook (of the largest)", error, 1e-5)


def nearest_as_recorded(golden: Golden, codec: VQVAE, case: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`nearest`, with ties of float32 resolved as in the recorded run.

    A first codebook that has more codes than there are rows holds copies of rows with small noise. Rounding decides which copy is the
    nearest, and differs between processors. The recorded counts of codes show which copies the recorded run chose.
    """
    sums = {}  # number of rows -> running counts of the codes, of each level
    for level in range(codec.config.levels):
        rows = golden.io[f"out.encoder.level{level}"].transpose(1, 2).flatten(0, 1)
        sums[len(rows)] = golden.io[f"out.train.{case}.level{level}.k_elem"]

    def nearest(x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        codes, distances = ours(x, k)
        every = (x.double()[:, None] - k.double()).square().sum(-1)
        rounding = 1e-6 * (x.double().square().sum(1, keepdim=True) + k.double().square().sum(1))
        tied = every - every.min(1, keepdim=True).values <= rounding
        many = tied.sum(1) > 1
        # the uses of each code in this step that no row without a tie has, but for a constant
        left = sums[len(x)] / (1 - codec.config.mu) - torch.bincount(codes[~many], minlength=len(k))
        for row in many.nonzero().flatten().tolist():
            codes[row] = torch.where(tied[row], left, -torch.inf).argmax()
            left[codes[row]] -= 1
        return codes, distances

    ours = quantize.nearest
    return nearest


def begin(golden: Golden, codec: VQVAE, case: str, level: int, tokens: int) -> None:
    """Put a codebook's running sums where the recorded step began, and let it draw what that step drew."""
    book = codec.level(level).codebook
    book.threshold = golden.json["threshold"][f"{case}.level{level}"]
    book.draw = recorded_draw(golden.io, case, level)
    if case == "fresh_init":
        book.initialised.fill_(False)
        for buffer in (book.k, book.k_sum, book.k_elem):
            buffer.zero_()
    elif case != "restored_unit":
        book.restore(tokens / codec.config.bins)


def recorded_draw(
    io: Mapping[str, Tensor], case: str, level: int, stages: tuple[str, ...] = ("init", "update")
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Draws the rows the recorded run drew: its permutation of the (repeated) rows and the noise it had added before."""
    left = [s for s in stages if f"in.train.{case}.level{level}.{s}.randperm" in io]

    def draw(rows, bins, width, generator, skip=True):
        key = f"in.train.{case}.level{level}.{left.pop(0)}"
        chosen = io[f"{key}.randperm"][:bins]
        noise = io.get(f"{key}.tile_noise")
        return chosen % rows, None if noise is None else noise[chosen] * 0.01 / width**0.5

    return draw


def codebook_after(golden: Golden, case: str, level: int) -> Tensor:
    """The codebook after the step, from recorded sums, encoder outputs and draws.

    The recorded `k` cannot serve: in every case it is the codebook of before the step, whereas the recorded `dk` shows that it
    moved (and agrees with what is computed here).
    """
    io, at = golden.io, f"out.train.{case}.level{level}"
    k_sum, k_elem = io[f"{at}.k_sum"], io[f"{at}.k_elem"]
    rows = io[f"out.encoder.level{level}"].transpose(1, 2).flatten(0, 1)
    index, noise = recorded_draw(io, case, level, ("update",))(len(rows), *k_sum.shape, None)
    restarts = rows[index] + (0 if noise is None else noise)
    alive = k_elem >= golden.json["threshold"][f"{case}.level{level}"]
    return torch.where(alive[:, None], k_sum / k_elem[:, None], restarts)


# -------------------- spectra


def check_spectra(golden: Golden, config: VQVAEConfig) -> Iterator[Check]:
    """The spectral losses on their own, an item each."""
    io = golden.io
    if "in.spec.a" not in io:
        return
    a, b, stereo = (io[f"in.spec.{name}"].mT for name in ("a", "b", "stereo"))

    def of(function, resolution, x, y) -> Tensor:
        return function(*(magnitudes(losses.mixdown(v, "mean"), *resolution) for v in (x, y)))

    several = [of(losses.spectral, resolution, a, b) for resolution in config.multispectral_stfts]
    ours = {
        "spectral_loss": of(losses.spectral, config.spectral_stft, a, b),
        "spectral_convergence": of(spectral_convergence, config.spectral_stft, a, b),
        "multispectral_loss": torch.stack(several).mean(0),
        # recorded against the same clip played backwards, which the golden's README does not mention
        "stereo_spectral_loss": of(losses.spectral, config.spectral_stft, stereo, stereo.flip(-1)),
    }
    for resolution in config.multispectral_stfts:
        ours[f"mag_nfft{resolution[0]}_first_item"] = magnitudes(a[:1, 0, :1500], *resolution)
    for name, value in ours.items():
        if (key := f"out.spec.{name}") in io:
            yield Check(f"{name} (of the largest)", apart_of_largest(value, io[key]), 1e-5)
