"""DiffusionPrior: latents from tokens by velocity diffusion (MeLoDy, arXiv:2305.15719).

    noise at angle pi / 2 -> a pass predicts velocities, which rotate all unknown frames by a step -> .. -> latents at angle 0

Every frame has its own angle. In training the chunks of a window have different angles, and in a share of the windows some
frames are clean. A window that continues or inpaints a song also has clean frames: known frames have angle 0 and never change.
The noise is addressed by absolute frame, so that windows have equal noise where they overlap. The paper's equation 6 samples
angles from [0, 1]. Here the range is [0, pi / 2].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.conditioning.labels import LabelEmbedding
from priors.diffusion.config import DiffusionConfig, DiffusionParams
from priors.diffusion.network import DualPathNetwork
from priors.diffusion.schedule import FULL, frame_angles, noisy, rotated, step_sizes, velocity
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window, check_shapes

# names in a training batch: angles of the chunks, noise of the frames, flags of rows without tokens
ANGLES, NOISE, ALONE = "angles", "noise", "alone"
DROPPED = 0.1  # share of training windows without tokens


@dataclass
class DiffusionState:
    """A window in progress: the latents of the frames after `done` steps, and the other inputs of the network."""

    z: Float[Tensor, "b t e"]
    known: Bool[Tensor, "b t"]
    given: Float[Tensor, "b t e"]  # the values of known frames before normalisation
    tokens: Int[Tensor, "b n books"]
    labels: Tensor | float
    offset: int  # number of frames between the start of the first token and the start of the window
    params: DiffusionParams
    done: int = 0

    def state_dict(self) -> dict[str, Tensor]:
        return {"z": self.z.cpu(), "done": torch.tensor(self.done, device="cpu")}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        check_shapes(tensors, self.state_dict())
        self.z, self.done = tensors["z"].to(self.z.device, copy=True), int(tensors["done"])

    @property
    def nbytes(self) -> int:
        return self.z.nbytes


class DiffusionPrior(Prior):
    """A prior of the latents of one stream, given tokens of another stream. It has no likelihood."""

    config: DiffusionConfig
    mean: Float[Tensor, " e"]
    deviation: Float[Tensor, " e"]
    fitted: Bool[Tensor, ""]

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, self.stream = config, config.stream
        self.network = DualPathNetwork(config)
        self.labels = LabelEmbedding(config.labels, config.width, std=0.3) if config.labels else None
        self.register_buffer("mean", torch.zeros(config.latent))
        self.register_buffer("deviation", torch.ones(config.latent))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @torch.no_grad()
    def fit(self, latents: Float[Tensor, "b t e"]) -> None:
        """Measure the mean and deviation of latents. `normalised` uses them, because the angles assume a deviation of 1."""
        flat = latents.flatten(0, 1).float().to(self.device)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0).clamp(min=1e-4))
        self.fitted.fill_(True)

    def normalised(self, latents: Tensor) -> Tensor:
        return (latents - self.mean) / self.deviation

    def latents(self, normalised: Tensor) -> Tensor:
        """The inverse of `normalised`, clamped to the range of latents, [-1, 1]."""
        return (normalised * self.deviation + self.mean).clamp(-1, 1)

    @torch.no_grad()
    def initialise_embeddings(self, vectors: Mapping[str, Tensor]) -> None:
        """Copy the codec's codebook vectors of the tokens."""
        if (found := vectors.get(self.config.reads)) is not None:
            self.network.tokens.vectors.copy_(found.reshape(self.network.tokens.vectors.shape))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the matrices of the blocks, for Muon."""
        yield from (p for p in self.network.blocks.parameters() if p.ndim == 2)

    def conditions(self, cond: Conditions, rows: int) -> tuple[Int[Tensor, "b n books"], Tensor | float]:
        """Return the tokens (b, n, books), and the vectors of artist and genres. ValueError without tokens."""
        if cond.above is None:
            raise ValueError(f"a window without {self.config.reads}; latents are sampled from them")
        tokens = cond.above if cond.above.dim() == 3 else cond.above[..., None]
        return tokens, self.labels(cond.artist, cond.genres, rows) if self.labels else 0.0

    # ---- training

    def draw_masks(self, rngs: Sequence[np.random.Generator]) -> tuple[Mask, Mask]:
        """Sample two masks for each window: the known frames, and the frames in the loss (all others).

        In the share `clean` of the windows the first frames are known. In some of these windows the last frames are known too.
        """
        known = torch.zeros(len(rngs), self.config.window, dtype=torch.bool, device="cpu")
        for row, rng in zip(known, rngs, strict=True):
            if self.config.multi_chunk and rng.random() < self.config.clean:
                first, end = self._unknown(rng)
                row[:first] = True
                row[end:] = True
        return {self.stream: known}, {self.stream: ~known}

    def _unknown(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return the first and the end of the unknown frames of a window that has known frames.

        With probability 1/2 the unknown frames begin at a chunk. With probability 0.7 they last until the end of the window.
        """
        frames, chunks = self.config.window, self.config.chunks
        first = int(rng.integers(1, chunks)) * frames // chunks if rng.random() < 0.5 else int(rng.integers(1, frames - 1))
        return first, frames if rng.random() < 0.7 else int(rng.integers(first + 1, frames + 1))

    def drawn(self, batch: Batch) -> Batch:
        """Return the batch with its missing random numbers, sampled by torch's global generator."""
        true = batch.sequences[self.stream]
        rows, lacking = len(true), dict[str, Tensor]()
        if ANGLES not in batch.sequences:
            lacking = {
                ANGLES: FULL * torch.rand(rows, self.config.chunks, device=true.device), NOISE: torch.randn_like(true),
                ALONE: torch.rand(rows, device=true.device) < DROPPED,
            }  # fmt: skip
        known = batch.known
        if known is None:
            known, _ = self.draw_masks([np.random.default_rng(int(torch.randint(2**62, ()))) for _ in range(rows)])
        return replace(
            batch, sequences=batch.sequences | lacking, known={name: mask.to(true.device) for name, mask in known.items()}
        )

    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        """Return the mean squared error of the velocities over the unknown frames."""
        batch = self.drawn(batch)
        clean, noise = self.normalised(batch.sequences[self.stream].float()), batch.sequences[NOISE]
        assert batch.known is not None
        known, angles = batch.known[self.stream], batch.sequences[ANGLES]
        angles = angles if self.config.multi_chunk else angles[:, :1].expand_as(angles)
        angle = frame_angles(angles, clean.shape[1]).masked_fill(known, 0.0)
        tokens, labels = self.conditions(batch.cond, len(clean))
        alone = batch.sequences[ALONE]
        made = self.network(noisy(clean, noise, angle[..., None]), angle, tokens, labels, alone=alone if alone.any() else None)
        error = (made.float() - velocity(clean, noise, angle[..., None])).square().mean(-1).masked_fill(known, 0.0)
        count = batch.counts[self.stream] if batch.counts else (~known).sum()
        return {"loss": error.sum() / count}

    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        return None

    # ---- sampling

    @torch.no_grad()
    def start(
        self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, DiffusionParams]
    ) -> DiffusionState:
        """Start a window with noise in all unknown frames. ValueError for invalid parameters or lengths."""
        config, stream, given = self.config, self.stream, params[self.stream]
        step_sizes(given.steps, given.schedule)  # raises ValueError for invalid parameters
        values, mask = known.sequences[stream].float(), known.mask[stream]
        if values.shape[1] != window.length or not 0 < window.length <= config.window:
            raise ValueError(f"{values.shape[1]} frames in a window of {window.length}; expected as many, 1 to {config.window}")
        tokens, labels = self.conditions(cond, len(values))
        offset = window.start % config.read_ratio
        tokens = tokens[:, : -(-(offset + window.length) // config.read_ratio)]
        start = noise.at(stream, window.start, window.length, config.latent).to(values)
        z = torch.where(mask[..., None], self.normalised(values), start)
        return DiffusionState(z, mask, values, tokens, labels, offset, given)

    @torch.no_grad()
    def sample(self, state: DiffusionState) -> Iterator[Update]:
        """Yield an empty update after each step, and the whole window after the last step."""
        sizes = step_sizes(state.params.steps, state.params.schedule)
        while state.done < len(sizes):
            left = len(sizes) - state.done
            angle = torch.zeros(state.known.shape, device=self.device).masked_fill(~state.known, sum(sizes[:left]))
            z = rotated(state.z, self._velocity(state, angle), sizes[left - 1])
            state.z, state.done = torch.where(state.known[..., None], state.z, z), state.done + 1
            made = torch.where(state.known[..., None], state.given, self.latents(state.z)) if left == 1 else state.z[:, :0]
            yield Update(self.stream, 0, made)

    def _velocity(self, state: DiffusionState, angle: Float[Tensor, "b t"]) -> Float[Tensor, "b t e"]:
        """Return the velocities of all frames. With guidance the batch has two rows per sample: with and without tokens."""
        scale = state.params.token_guidance
        if scale == 1:
            return self.network(state.z, angle, state.tokens, state.labels, state.offset)
        rows = len(state.z)
        alone = torch.arange(2 * rows, device=self.device) >= rows
        labels = state.labels.repeat(2, 1, 1) if isinstance(state.labels, Tensor) else state.labels
        twice = self.network(
            state.z.repeat(2, 1, 1), angle.repeat(2, 1), state.tokens.repeat(2, 1, 1), labels, state.offset, alone
        )
        given, free = twice.chunk(2)
        return free + scale * (given - free)
