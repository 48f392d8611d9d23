"""GanPrior: latents of unbounded length, from random numbers addressed by frame (Musika, arXiv:2208.08706, section 3.3).

    anchors -> lines between them     coordinates   change from frame to frame, so that neighbouring patches fit
    one vector for a song             style         constant
    artist, genre, tempo, density     conditions    by frame; if `cond` is a function of seconds, it is called for each patch

The random numbers of a frame depend on its position in the sequence only. So windows, batches and restarts are consistent at
their boundaries. In training the generator makes two neighbouring patches independently, and the critic judges them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from priors.conditioning.conditions import Conditions
from priors.conditioning.controls import control_channels
from priors.conditioning.labels import LabelEmbedding
from priors.gan.config import LEAST_ANCHORS, GanConfig, GanParams
from priors.gan.coordinates import interpolate, patch_places, truncated, window_places
from priors.gan.critic import Critic
from priors.gan.generator import Generator
from priors.noise import normal_at
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window, check_shapes, known_prefix
from vqvae.adversarial import hinge_discriminator, hinge_generator, r1_penalty
from vqvae.ranks import mean_over_ranks

NUMBERS, STARTS = ("numbers", "starts")  # names in a training batch: random numbers and window position of each row
# Largest weight of the R1 penalty, its first value, its step size, and the certainty of the critic above which the weight grows.
# Musika begins at 10 and trains 1.5 million steps. After some thousand steps at that weight the critic was still uncertain.
MOST_PENALTY, PENALTY, PENALTY_STEP, CERTAIN = 10.0, 1.0, 1e-3, 0.9
RECONSTRUCTION = 1.0  # 10 in Musika: in a short training its gradients exceed those of the hinge loss
GENERATOR, CRITIC = "generator", "critic"  # names of the training phases

TimedConditions = Callable[[float], Conditions]  # conditions as a function of the start of a patch, in seconds


@dataclass
class GanState:
    """State of a window: the inputs of its patches, and whether the patches are generated."""

    stream: str
    inputs: Float[Tensor, "b p t f"]
    noise: Float[Tensor, "b p n"]
    skip: int  # number of frames between the start of the first patch and the first new frame
    prompt: int
    frames: int
    done: bool = False

    def state_dict(self) -> dict[str, Tensor]:
        return {"done": torch.tensor(self.done)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        check_shapes(tensors, self.state_dict())
        self.done = bool(tensors["done"])

    @property
    def nbytes(self) -> int:
        return 1


class GanPrior(Prior):
    config: GanConfig
    penalty: Tensor

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        self.config = config
        self.generator, self.critic = Generator(config), Critic(config)
        self.labels, self.critic_labels = (
            LabelEmbedding(config.labels, config.embedding, std=0.5) if config.labels else None for _ in range(2)
        )
        self.register_buffer("penalty", torch.tensor(PENALTY))

    @property
    def device(self) -> torch.device:
        return self.penalty.device

    def channels(self, labels: LabelEmbedding | None, cond: Conditions, rows: int, frames: int) -> Float[Tensor, "b t c"]:
        """Return the conditions of each frame as channels: artist and genre, then the controls."""
        controls = control_channels(cond.controls, self.config.controls, rows, frames).to(self.device)
        if labels is None:
            return controls
        return torch.cat([labels(cond.artist, cond.genres, rows).expand(rows, frames, -1).float(), controls], dim=-1)

    # ---- training

    @property
    def numbers(self) -> int:
        """Number of random numbers of a training window: three anchors, one style, and the noise of two patches."""
        return 3 * self.config.coordinates + self.config.style + 2 * self.config.noise

    def generated(self, batch: Batch) -> Float[Tensor, "b t e"]:
        """Generate a window of two patches for each batch row. If NUMBERS and STARTS are missing, they are sampled."""
        config = self.config
        if NUMBERS not in batch.sequences:
            rows = len(batch.sequences[config.stream])
            drawn = {NUMBERS: torch.randn(rows, self.numbers, device=self.device)}
            drawn[STARTS] = torch.randint(config.starts, (rows,), device=self.device)
            batch = replace(batch, sequences={**batch.sequences, **drawn})
        sizes = (3 * config.coordinates, config.style, 2 * config.noise)
        anchors, style, noise = batch.sequences[NUMBERS].split(sizes, dim=1)
        rows, frames = len(anchors), 2 * config.patch
        places = window_places(batch.sequences[STARTS], config.patch)
        coordinates = interpolate(anchors.unflatten(1, (3, -1)), places, config.spacing)
        cond = self.channels(self.labels, batch.cond, rows, frames)
        inputs = torch.cat([coordinates, style[:, None].expand(-1, frames, -1), cond], dim=-1)
        halves = inputs.unflatten(1, (2, -1)).flatten(0, 1)  # (B, 2S, F) -> (2B, S, F): patches are independent
        return self.generator(halves, noise.unflatten(1, (2, -1)).flatten(0, 1)).unflatten(0, (rows, 2)).flatten(1, 2)

    def loss(self, batch: Batch, phase: str = "", made: Float[Tensor, "b t e"] | None = None) -> dict[str, Tensor]:
        """Return the loss of the generator, or in the phase "critic" the loss of the critic.

        `made` are generated windows of this batch. By default they are generated here.
        """
        made = self.generated(batch) if made is None else made
        true = batch.sequences[self.config.stream]
        cond = self.channels(self.critic_labels, batch.cond, *true.shape[:2])
        if phase != CRITIC:
            loss = hinge_generator([self.critic(made, cond).scores])
            return {
                "loss": loss,
                "adversary_loss": loss.detach(),
                "made_deviation": made.detach().std(),
                "true_deviation": true.std(),
            }
        return self._critic_loss(true, made.detach(), cond)

    def _critic_loss(self, true: Tensor, made: Tensor, cond: Tensor) -> dict[str, Tensor]:
        with torch.autocast(true.device.type, enabled=False):  # R1 needs second derivatives
            true = true.float().requires_grad_().clone()  # no leaf: the FLOP counter sets hooks on the inputs of modules
            judged, fake = self.critic(true, cond), self.critic(made.float(), cond)
            hinge = hinge_discriminator([judged.scores], [fake.scores]) / 2
            penalty = 2 * r1_penalty(judged.scores, true)
            error = (self.critic.reconstruct(judged.hidden) - true.detach()).square().sum(-1).mean()
            loss = hinge + self.penalty.clone() * penalty + RECONSTRUCTION * error
        certainty = mean_over_ranks((judged.scores.mean() - fake.scores.mean()).detach()).clamp(0, 2) / 2
        if self.training:
            self.penalty.add_(PENALTY_STEP * (1 if certainty > CERTAIN else -1)).clamp_(0, MOST_PENALTY)
        logs = {"hinge_loss": hinge, "gradient_penalty": penalty, "reconstruction_error": error, "certainty": certainty}
        return (
            {"loss": loss} | {name: value.detach() for name, value in logs.items()} | {"penalty_weight": self.penalty.clone()}
        )

    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        return None

    # ---- sampling

    def start(
        self, window: Window, known: Known, cond: Conditions | TimedConditions, noise: Noise, params: Mapping[str, Any]
    ) -> GanState:  # fmt: skip
        """Return the state of a window. `cond` may be a function of the start of a patch in seconds."""
        config, stream = self.config, self.config.stream
        given: GanParams = params[stream]
        prompt = known_prefix(stream, window, known, window.length).shape[1]
        begin, end = window.start + prompt, window.start + window.length
        first, last = begin // config.patch, -(-end // config.patch)
        numbers = _Numbers(config, noise, given)
        places = patch_places(first, last - first, config.patch)
        anchor = int(places[0]) // config.spacing
        anchors = torch.stack([numbers.anchor(k) for k in range(anchor, int(places[-1]) // config.spacing + 2)], dim=1)
        rows = len(anchors)
        coordinates = interpolate(anchors, (places - anchor * config.spacing).expand(rows, -1), config.spacing)
        inputs = torch.cat([coordinates, numbers.style()[:, None].expand(-1, len(places), -1)], dim=-1).to(self.device)
        patches = [self._conditions(cond, given, window, first + i, rows) for i in range(last - first)]
        inputs = torch.cat([inputs.unflatten(1, (-1, config.patch)), torch.stack(patches, dim=1)], dim=-1)
        layers = torch.stack([numbers.layers(i) for i in range(first, last)], dim=1).to(self.device)
        return GanState(stream, inputs, layers, begin - first * config.patch, prompt, end - begin)

    def _conditions(
        self, cond: Conditions | TimedConditions, given: GanParams, window: Window, patch: int, rows: int
    ) -> Tensor:
        """Return the conditions of the frames of a patch. Frame-wise controls in `cond` begin at the start of the window."""
        config, begin = self.config, patch * self.config.patch
        found = cond(begin * config.hop / config.sample_rate) if callable(cond) else cond
        controls = {name: torch.tensor([[float(getattr(given, name, 0.0))]]) for name in config.controls}
        frames = begin - window.start + torch.arange(config.patch)
        for name, values in found.controls.items():
            short = callable(cond) or values.shape[1] == 1
            controls[name] = values if short else values[:, frames.clamp(0, values.shape[1] - 1)]
        return self.channels(self.labels, Conditions(found.artist, found.genres, controls=controls), rows, config.patch)

    @torch.no_grad()
    def sample(self, state: GanState) -> Iterator[Update]:
        """Generate all patches of the window in parallel."""
        rows, patches = state.inputs.shape[:2]
        made = self.generator(state.inputs.flatten(0, 1), state.noise.flatten(0, 1)).unflatten(0, (rows, patches)).flatten(1, 2)
        state.done = True
        yield Update(state.stream, state.prompt, made[:, state.skip : state.skip + state.frames])


class _Numbers:
    """The random numbers of a sequence: anchors, style, and the noise of the layers.

    Each row of numbers is addressed by a frame: the first frame of a patch, or the frame of an anchor.
    """

    def __init__(self, config: GanConfig, noise: Noise, params: GanParams) -> None:
        self.config, self.noise, self.params = config, noise, params
        self.period = 2 * config.spacing if params.loop else 0
        self.width = config.coordinates + config.style + config.noise

    def _row(self, frame: int) -> Float[Tensor, "b w"]:
        frame = frame % self.period if self.period else frame
        return self.noise.at(self.config.stream, frame, 1, self.width)[:, 0]

    def anchor(self, k: int) -> Float[Tensor, "b c"]:
        """Return the vector of anchor k. Its truncation is at least LEAST_ANCHORS, so that the music varies in time.

        A smaller truncation applies to the style only.
        """
        bound = max(LEAST_ANCHORS, self.params.truncation)
        return truncated(self._row(k * self.config.spacing)[:, : self.config.coordinates], bound)

    def style(self) -> Float[Tensor, "b s"]:
        first, row = self.config.coordinates, self._row(0)
        if self.params.style >= 0:
            row = normal_at(self.params.style, 0, "style", 0, 1, self.width).expand_as(row)
        return truncated(row[:, first : first + self.config.style], self.params.truncation)

    def layers(self, patch: int) -> Float[Tensor, "b n"]:
        return self._row(patch * self.config.patch)[:, self.config.coordinates + self.config.style :]
