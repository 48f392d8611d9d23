"""Encoder and decoder of one level: strided convolutions, each with a stack of dilated residual blocks.

Jukebox (arXiv:2005.00341, appendix B.1), based on VQ-VAE-2 and WaveNet. Notable:
- a convolution of stride s has kernel 2s and padding s/2: it maps length T to floor(T / s), and its transpose maps T to s * T;
- dilations grow as 3^i, so the receptive field grows exponentially with depth: 4 blocks cover 81 steps, 8 blocks cover 6,561;
- there is no activation between a strided convolution and its residual stack, and there is no normalisation;
- the residual stacks of the decoder begin with the widest dilation.
`layers` lists the layers in the order of computation. The streaming code (`vqvae/jukebox/stream.py`) runs this list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PerStage = Sequence[int]  # one number per stage of an encoder or decoder


class ResidualBlock(nn.Module):
    """x + scale * pointwise(relu(dilated(relu(x)))), with the unchanged shape (b, width, t)."""

    def __init__(self, width: int, hidden: int, dilation: int, scale: float = 1.0, zero_out: bool = False) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, hidden, 3, padding=dilation, dilation=dilation)
        self.pointwise = nn.Conv1d(hidden, width, 1)
        self.scale = scale
        if zero_out:
            for parameter in self.pointwise.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b w t"]) -> Float[Tensor, "b w t"]:
        h = self.pointwise(F.relu_(self.dilated(F.relu(x))))
        if self.scale != 1.0:
            h = h * self.scale
        return h.add_(x)


class ResidualStack(nn.Module):
    """A sequence of `depth` residual blocks.

    The dilation is multiplied by `growth` per block and restarts at 1 every `cycle` blocks. With `reverse` the dilations are in
    reverse order. With `res_scale` each residual is scaled by depth^-0.5. With `zero_out` each block starts as the identity.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        m_conv: float = 1.0,
        growth: int = 3,
        cycle: int | None = None,
        reverse: bool = False,
        res_scale: bool = False,
        zero_out: bool = False,
    ) -> None:
        super().__init__()
        dilations = [growth ** (i if cycle is None else i % cycle) for i in range(depth)]
        if reverse:  # block 0 has the widest dilation
            dilations.reverse()
        self.reach = sum(dilations)  # receptive field to either side, steps
        scale = depth**-0.5 if res_scale else 1.0
        self.blocks = nn.Sequential(*(ResidualBlock(width, int(m_conv * width), d, scale, zero_out) for d in dilations))

    def forward(self, x: Float[Tensor, "b w t"]) -> Float[Tensor, "b w t"]:
        return self.blocks(x)


class DownStep(nn.Module):
    """A strided convolution, followed by a residual stack at the lower rate."""

    def __init__(self, in_width: int, width: int, stride: int, depth: int, **stack) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_width, width, 2 * stride, stride, padding=stride // 2)
        self.stack = ResidualStack(width, depth, **stack)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(self.conv(x))  # (B, C, T) -> (B, W, T // stride)


class Upsampling(nn.ConvTranspose1d):
    """A transposed convolution of stride s and kernel 2s. With `flat` the layer adds no tones at multiples of the lower rate.

    The outputs at different positions p within a stride use different taps. So an ordinary layer turns a constant input into a
    pattern of period s. The pattern consists of tones at multiples of the lower rate (checkerboard artefacts, Odena et al.
    2016; Pons et al., arXiv:2010.14356). A flat layer subtracts this pattern from its weight, so the taps have an equal sum at
    all positions p. The difference is distributed over the taps of p by linear interpolation. The number of parameters is
    unchanged. The cost is unchanged too, except for the computation of the kernel.
    """

    def __init__(self, width: int, out_width: int, stride: int, flat: bool = False) -> None:
        super().__init__(width, out_width, 2 * stride, stride, padding=stride // 2)
        self.flat = flat

    def kernel(self) -> Float[Tensor, "c w k"]:
        """Return the kernel of the convolution: the weight, or if `flat`, the weight without the pattern of period s."""
        if not self.flat:
            return self.weight
        taps = self.weight.unflatten(2, (2, -1))  # (C, W, 2s) -> (C, W, 2, s)
        sums = taps.sum(2, keepdim=True)
        rise = (torch.arange(taps.shape[3], device=taps.device, dtype=taps.dtype) + 0.5) / taps.shape[3]
        return (taps - (sums - sums.mean(3, keepdim=True)) * torch.stack([rise, 1 - rise])).flatten(2)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b w s"]:  # type: ignore[override]
        return F.conv_transpose1d(x, self.kernel(), self.bias, stride=self.stride, padding=cast(int, self.padding[0]))


class UpStep(nn.Module):
    """A residual stack, followed by a transposed convolution to the higher rate."""

    def __init__(self, width: int, out_width: int, stride: int, depth: int, *, flat: bool = False, **stack) -> None:
        super().__init__()
        self.stack = ResidualStack(width, depth, **stack)
        self.conv = Upsampling(width, out_width, stride, flat)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.stack(x))  # (B, W, T) -> (B, C, T * stride)


class EncoderStage(nn.Module):
    """`down` strided steps with `width` channels, then a projection: (b, in, t) -> (b, out, t // stride**down)."""

    def __init__(self, in_width: int, out_width: int, width: int, down: int, stride: int, depth: int, **stack) -> None:
        super().__init__()
        in_widths = [in_width] + [width] * (down - 1)
        self.steps = nn.Sequential(*(DownStep(each, width, stride, depth, **stack) for each in in_widths))
        self.out = nn.Conv1d(width, out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.steps(x))


class DecoderStage(nn.Module):
    """A projection to `width` channels, then `up` steps: (b, in, t) -> (b, out, t * stride**up).

    The priors of finer levels upsample their conditioning codes with this class too.
    """

    def __init__(self, in_width: int, out_width: int, width: int, up: int, stride: int, depth: int, **stack) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(in_width, width, 3, padding=1)
        out_widths = [width] * (up - 1) + [out_width]
        self.steps = nn.Sequential(*(UpStep(width, each, stride, depth, **stack) for each in out_widths))

    def forward(self, x: Tensor) -> Tensor:
        return self.last.conv(self.before_last(x))

    @property
    def last(self) -> UpStep:
        return cast(UpStep, self.steps[-1])

    def before_last(self, x: Tensor) -> Tensor:
        """Run all layers except the last transposed convolution."""
        return self.last.stack(self.steps[:-1](self.inlet(x)))


class Encoder(nn.Module):
    """Encodes audio (b, channels, t) to latents (b, emb_width, t // hop). The encoder of level l has the stages 0 to l."""

    def __init__(
        self, channels: int, emb_width: int, widths: PerStage, downs: PerStage, strides: PerStage, depth: int, **stack
    ) -> None:
        super().__init__()
        stages = enumerate(zip(widths, downs, strides, strict=True))
        self.stages = nn.Sequential(
            *(EncoderStage(emb_width if s else channels, emb_width, *shape, depth, **stack) for s, shape in stages)
        )

    def forward(self, audio: Float[Tensor, "b c t"]) -> Float[Tensor, "b e s"]:
        return self.stages(audio)


def joined(x: Float[Tensor, "b w t"], up: Upsampling, out: nn.Conv1d) -> Float[Tensor, "b c s"]:
    """Compute out(up(x)) as one transposed convolution.

    The results are equal, because no activation is between `up` and `out`. The wide tensor at the full rate is never computed.
    """
    kernel, bias, stride, padding = joined_kernel(up, out)
    y = F.conv_transpose1d(x, kernel, bias, stride=stride, padding=padding)
    first, last = beyond(x[..., 0], x[..., -1], up, out)
    return torch.cat([y[..., :1] - first[..., None], y[..., 1:-1], y[..., -1:] - last[..., None]], dim=-1)


def joined_kernel(up: Upsampling, out: nn.Conv1d) -> tuple[Float[Tensor, "w c k"], Float[Tensor, " c"], int, int]:
    """Kernel, bias, stride and padding of the transposed convolution that joins `up` and `out` (kernel 3)."""
    assert up.bias is not None and out.bias is not None
    kernel = F.conv1d(up.kernel(), out.weight, padding=2)  # (W, E, 2s) and (C, E, 3) -> (W, C, 2s + 2)
    bias = out.bias + torch.einsum("cej,e->c", out.weight, up.bias)
    return kernel, bias, cast(int, up.stride[0]), cast(int, up.padding[0]) + 1


def beyond(
    first: Float[Tensor, "b w"], last: Float[Tensor, "b w"], up: Upsampling, out: nn.Conv1d
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """Errors of the joined convolution in the first and in the last sample, which the caller subtracts.

    The joined convolution acts as if the output of `up` had one more sample at both ends. The exact result has zero padding
    there. `first` and `last` are the first and the last input of `up`.
    """
    assert up.bias is not None
    stride, padding = cast(int, up.stride[0]), cast(int, up.padding[0])
    kernel = up.kernel()
    before, after = first @ kernel[..., padding - 1] + up.bias, last @ kernel[..., stride + padding] + up.bias
    return before @ out.weight[..., 0].T, after @ out.weight[..., 2].T


class Decoder(nn.Module):
    """Decodes latents (b, emb_width, s) to audio (b, channels, s * hop). The stages run from last to first."""

    def __init__(
        self, channels: int, emb_width: int, widths: PerStage, ups: PerStage, strides: PerStage, depth: int, **stack
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            DecoderStage(emb_width, emb_width, *shape, depth, **stack) for shape in zip(widths, ups, strides, strict=True)
        )
        self.out = nn.Conv1d(emb_width, channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b e s"]) -> Float[Tensor, "b c t"]:
        x = latents
        for stage in reversed(self.stages[1:]):
            x = stage(x)
        finest = cast(DecoderStage, self.stages[0])
        return joined(finest.before_last(x), finest.last.conv, self.out)


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the convolutions and residual blocks of `module` in the order of computation.

    In a `Decoder` this order differs from the order of construction.
    """
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | ResidualBlock):
        yield module
        return
    for part in [*reversed(module.stages), module.out] if isinstance(module, Decoder) else module.children():
        yield from layers(part)
