"""Streaming encoder and decoder for audio of any length, in constant memory. Results equal those of whole-song processing.

"Equal" means: codes are the same except for ties, and audio is the same within rounding. A convolution needs a limited number
of past steps. Each layer stores the last steps of its input. A layer starts with the zeros of its padding. It appends each new
block, computes without padding, and pads with zeros at the end. So no step is computed twice, and the code does not need the
receptive field, which is one second to either side at the finest published level. Streaming is also faster, because blocks are
short enough for the caches of the processor. A whole layer, 113 MB for 20 s, would pass through memory a dozen times.

    pieces ->  layers 0..i  ->  layers i+1..j  ->  ...  -> codes, or sound
               thread 0         thread 1                   each thread is one block later than the previous thread

The blocks are too short to be divided between threads. So each thread runs some of the layers, and the threads form a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.jukebox.autoencoder import Autoencoder
from vqvae.jukebox.blocks import ResidualBlock, Upsampling, beyond, joined_kernel, layers

CHUNK, CHUNK_CUDA = 2**14, 2**19  # samples per block on a CPU (2 MB per layer fit the cache of a core) and on a GPU
ARRIVING_CUDA = 2**16  # samples per block on a GPU for codes that arrive over time: a delay of seconds
MOST, MOST_CUDA = 2**17, 2**25  # largest number of values that a layer gets at a time
CALL = 200.0  # cost of a layer in addition to its multiplications, measured with blocks of CHUNK

Part = tuple[Tensor, bool]  # (a tensor (c, t), True for the last block)
PartsByStream = dict[str, list[Part]]  # stream -> input or output of a layer for the current block


@dataclass(frozen=True)
class Layer:
    """A layer of one stream. `step` runs the layer and stores past inputs. `cost` is its time per sample in multiplications."""

    stream: str
    step: Callable[[Tensor, bool], Tensor]
    cost: float


def encode_stream(
    autoencoders: Mapping[str, Autoencoder], blocks: Iterable[Float[Tensor, "c t"]], *, chunk: int = 0
) -> Iterator[dict[str, Int[Tensor, "s"]]]:
    """Encode the concatenated `blocks` of audio with every autoencoder, `chunk` samples at a time (0: a default).

    Yields codes by stream.
    """
    line = [layer for stream, autoencoder in autoencoders.items() for layer in _encoder(autoencoder, stream)]
    pieces = ({stream: [piece] for stream in autoencoders} for piece in _pieces(blocks, chunk))
    if autoencoders:
        yield from _assembled(line, pieces, next(iter(autoencoders.values())).codebook.k.device)


def decode_stream(
    autoencoder: Autoencoder, codes: Iterable[Int[Tensor, "s"]], *, chunk: int = 0
) -> Iterator[Float[Tensor, "c t"]]:
    """Decode the concatenated blocks of `codes` to audio, about `chunk` samples at a time (0: a default)."""
    # a decoder has its full width at the full rate but an encoder at half the rate, so blocks are half as long
    pieces = ({"": [piece]} for piece in _pieces(codes, chunk, autoencoder.hop, CHUNK // 2))
    for made in _assembled(list(_decoder(autoencoder)), pieces, autoencoder.codebook.k.device):
        yield made[""]


class AutoencoderDecoder:
    """Decodes codes that arrive over time: each `push` returns the audio that is complete.

    Codes are regrouped into blocks. So the audio does not depend on the sizes of the pushes and equals that of `decode_stream`.
    """

    def __init__(self, autoencoder: Autoencoder, check: Callable[[Tensor], Tensor], *, chunk: int = 0):
        self.hop, self.check, self.chunk = autoencoder.hop, check, chunk
        self.line, self.held = list(_decoder(autoencoder)), torch.zeros(0, dtype=torch.long, device="cpu")

    def push(self, values: Int[Tensor, "s"], last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        """Add codes and return the audio that later codes do not change; `last` marks the final call."""
        held = torch.cat([self.held.to(values), self.check(values[None])[0]])
        size = _size(held, self.chunk, self.hop, CHUNK // 2, ARRIVING_CUDA)
        whole = max(0, len(held) - 1) // size * size  # at least one code is held back for the block that is marked as last
        pieces = [(piece, False) for piece in held[:whole].split(size)] if whole else []
        pieces, self.held = pieces + [(held[whole:], True)] * last, held[whole:]
        for made in _assembled(self.line, ({"": [piece]} for piece in pieces), held.device):
            yield made[""]


# ---- the layers of an autoencoder


def _encoder(autoencoder: Autoencoder, stream: str) -> Iterator[Layer]:
    """Yield the layers of the encoder, from audio (c, t) to codes (s)."""
    rate = 1.0
    for module in layers(autoencoder.encoder):
        step, cost, change = _step(module)
        rate *= change
        yield Layer(stream, step, cost * rate + CALL)
    book = autoencoder.codebook
    yield Layer(stream, lambda x, last: book.encode(x[None])[0], book.k.numel() * rate + CALL)


def _decoder(autoencoder: Autoencoder, stream: str = "") -> Iterator[Layer]:
    """Yield the layers of the decoder, from codes (s) to audio (c, t)."""
    rate = 1 / autoencoder.hop
    yield Layer(stream, lambda x, last: autoencoder.codebook.decode(x[None].long())[0], CALL)
    *modules, up, out = layers(autoencoder.decoder)
    for module in modules:
        step, cost, change = _step(module)
        yield Layer(stream, step, cost * rate * max(1, change) + CALL)
        rate *= change
    assert isinstance(up, Upsampling) and isinstance(out, nn.Conv1d)
    yield Layer(stream, _Last(up, out), up.in_channels * out.out_channels * 3 + 5 * CALL)


def _step(module: nn.Module) -> tuple[Callable[[Tensor, bool], Tensor], float, float]:
    """Return the streaming step of a layer, its multiplications per step of the higher rate, and output rate / input rate."""
    if isinstance(module, ResidualBlock):
        return _Residual(module), float(module.dilated.weight.numel() + module.pointwise.weight.numel()), 1.0
    if isinstance(module, nn.Conv1d):
        return _Convolution(module), float(module.weight.numel()), 1 / module.stride[0]
    assert isinstance(module, Upsampling) and module.bias is not None
    stride = int(module.stride[0])
    step = _Transposed(module.kernel(), module.bias, stride, int(module.padding[0]))
    return step, module.weight.numel() / stride, float(stride)


# ---- blocks, and the pipeline


def _size(like: Tensor, chunk: int, hop: int, default: int, on_gpu: int = CHUNK_CUDA) -> int:
    """Number of elements in a block of `chunk` samples (0: the default for the device of `like`), `hop` samples per element."""
    return max(1, (chunk or (default if like.device.type == "cpu" else on_gpu)) // hop)


def _pieces(blocks: Iterable[Tensor], chunk: int, hop: int = 1, default: int = CHUNK) -> Iterator[Part]:
    """Regroup `blocks` into blocks of chunk // hop elements. Yield each block with a flag that marks the last block."""
    held: list[Tensor] = []
    for block in blocks:
        held.append(block)
        size = _size(block, chunk, hop, default)
        if sum(part.shape[-1] for part in held) > size:  # the rest is held back: it may be the last block
            *pieces, rest = (torch.cat(held, dim=-1) if len(held) > 1 else block).split(size, dim=-1)
            yield from ((piece, False) for piece in pieces)
            held = [rest]
    if held:
        yield torch.cat(held, dim=-1), True


def _assembled(line: Sequence[Layer], pieces: Iterable[PartsByStream], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Run the pipeline over all blocks and yield the results by stream. On a CPU each thread runs one stage of the pipeline.

    In each round, all stages run in parallel on different blocks, and each stage passes its block to the next stage. A round
    ends when all stages are finished.
    """
    threads = torch.get_num_threads()
    shares = _shares(line, threads if device.type == "cpu" else 1)
    if len(shares) == 1:
        yield from (_whole(_share(line, piece)) for piece in pieces)
        return
    empty: list[PartsByStream] = [{}] * (len(shares) - 1)
    made: list[PartsByStream] = [{}] * len(shares)
    with ThreadPoolExecutor(len(shares), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for piece in chain(pieces, empty):
                made = list(pool.map(_share, shares, [piece, *made[:-1]]))
                if made[-1]:
                    yield _whole(made[-1])
        finally:
            torch.set_num_threads(threads)  # the threads of the pool have changed the number for later threads


def _whole(piece: PartsByStream) -> dict[str, Tensor]:
    return {stream: torch.cat([x for x, _ in parts], dim=-1) for stream, parts in piece.items()}


def _shares(line: Sequence[Layer], count: int) -> list[list[Layer]]:
    """Split the pipeline into at most `count` stages of about equal cost."""
    whole, done = sum(layer.cost for layer in line), 0.0
    shares: list[list[Layer]] = [[] for _ in range(count)]
    for layer in line:
        shares[int((done + layer.cost / 2) / whole * count)].append(layer)
        done += layer.cost
    return [share for share in shares if share]


@torch.no_grad()
def _share(share: Sequence[Layer], piece: PartsByStream) -> PartsByStream:
    """Apply the layers of a pipeline stage to a block."""
    if not piece:
        return piece
    streams: dict[str, Iterator[Part]] = {stream: iter(parts) for stream, parts in piece.items()}
    for layer in share:
        streams[layer.stream] = _through(layer, streams[layer.stream])
    return {stream: list(parts) for stream, parts in streams.items()}


def _through(layer: Layer, parts: Iterator[Part]) -> Iterator[Part]:
    """Apply one layer to every part of a block.

    Large inputs are split, because at the end of the song all layers flush their buffers.
    """
    for x, last in parts:
        most = max(1, (MOST_CUDA if x.is_cuda else MOST) // (x.shape[0] if x.dim() > 1 else 1))
        *firsts, rest = x.split(most, dim=-1)
        for first in firsts:
            yield layer.step(first, False), False
        yield layer.step(rest, last), last


# ---- layers with stored past input


class _Tape:
    """A buffer (width, t) for the last inputs of a layer. The buffer starts with `pad` zeros.

    New steps are written after the last step. When the buffer is full, the steps that are still needed move to the start of the
    buffer. A new allocation per block would fragment the heap and need one more copy.
    """

    def __init__(self, pad: int = 0) -> None:
        self.place: Tensor | None = None
        self.start, self.end = 0, pad

    def room(self, x: Tensor, zeros: int = 0) -> Tensor:
        """Append a region with the shape of `x` and then `zeros` zeros. Return the region, which the caller fills."""
        n = x.shape[1] + zeros
        if self.place is None or self.end + n > self.place.shape[1]:
            kept = self.held if self.place is not None else x.new_zeros(len(x), self.end)
            room = n + 2 * kept.shape[1]
            if self.place is None or room > self.place.shape[1]:
                self.place = x.new_empty(len(x), room + 24)
            else:
                kept = kept.clone()
            self.place[:, : kept.shape[1]] = kept
            self.start, self.end = 0, kept.shape[1]
        self.end += n
        self.place[:, self.end - zeros : self.end] = 0
        return self.place[:, self.end - n : self.end - zeros]

    @property
    def held(self) -> Tensor:
        assert self.place is not None
        return self.place[:, self.start : self.end]

    def drop(self, n: int) -> None:
        """Discard the first n steps."""
        self.start += n


def _convolve(history: Tensor, taps: Sequence[Tensor], bias: Tensor, dilation: int, n: int) -> Float[Tensor, "w n"]:
    """Return bias (w, 1) + the sum over k of taps[k] (w, c) @ history (c, n), shifted by k * dilation steps.

    The products are added in place, because the convolution of a library would first copy its whole input.
    """
    out = torch.addmm(bias, taps[0], history[:, :n])
    for k, tap in enumerate(taps[1:], 1):
        out.addmm_(tap, history[:, k * dilation : k * dilation + n])
    return out


def _taps(layer: nn.Conv1d, scale: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """Return the weight (w, c, k) of a convolution as k matrices (w, c), and the bias as (w, 1), both times `scale`."""
    assert layer.bias is not None
    weight = layer.weight.detach() * scale
    return [tap.contiguous() for tap in weight.unbind(2)], layer.bias.detach()[:, None] * scale


class _Convolution:
    """Streaming step of a convolution with any stride."""

    def __init__(self, layer: nn.Conv1d) -> None:
        self.layer, self.stride, self.dilation = layer, int(layer.stride[0]), int(layer.dilation[0])
        self.pad, self.reach = int(layer.padding[0]), (layer.kernel_size[0] - 1) * int(layer.dilation[0])
        self.taps, self.bias = _taps(layer)
        self.history = _Tape(self.pad)

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        self.history.room(x, self.pad * last).copy_(x)
        history = self.history.held
        n = max(0, (history.shape[1] - self.reach - 1) // self.stride + 1)
        self.history.drop(n * self.stride)
        if self.stride == 1 or not n:
            return _convolve(history, self.taps, self.bias, self.dilation, n)
        return F.conv1d(history[None], self.layer.weight, self.layer.bias, self.stride, 0, self.dilation)[0]


class _Residual:
    """Streaming step of a residual block. `history` stores the rectified input. `past` stores the input plus the last bias."""

    def __init__(self, block: ResidualBlock) -> None:
        self.reach = int(block.dilated.dilation[0])
        self.taps, self.bias = _taps(block.dilated)
        (self.pointwise,), self.added = _taps(block.pointwise, block.scale)
        self.history, self.past = _Tape(self.reach), _Tape()

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        torch.clamp_min(x, 0.0, out=self.history.room(x, self.reach * last))
        torch.add(x, self.added, out=self.past.room(x))
        n = max(0, self.history.held.shape[1] - 2 * self.reach)
        hidden = _convolve(self.history.held, self.taps, self.bias, self.reach, n)
        made = torch.addmm(self.past.held[:, :n], self.pointwise, F.relu_(hidden))
        self.history.drop(n)
        self.past.drop(n)
        return made


class _Transposed:
    """Streaming step of a transposed convolution, computed as a convolution with width * stride output channels.

    The output channels of a step are `stride` consecutive steps of the result. The kernel (c, w, k) is padded with zeros to a
    multiple of the stride. The output at n * stride + p depends on the inputs n, n - 1, ...
    """

    def __init__(self, kernel: Tensor, bias: Tensor, stride: int, padding: int) -> None:
        self.stride, self.skip = stride, padding
        count = -(-kernel.shape[2] // stride)
        padded = F.pad(kernel.detach(), (0, count * stride - kernel.shape[2]))
        phases = padded.unflatten(2, (count, stride))  # (C, W, taps, stride)
        self.taps = [phases[:, :, k].permute(1, 2, 0).flatten(0, 1).contiguous() for k in reversed(range(count))]
        self.bias = bias.detach().repeat_interleave(stride)[:, None]  # (W * stride, 1)
        self.history = _Tape(count - 1)
        self.inputs = self.emitted = 0

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        more = len(self.taps) - 1
        self.history.room(x, more * last).copy_(x)
        n = max(0, self.history.held.shape[1] - more)
        made = _convolve(self.history.held, self.taps, self.bias, 1, n)
        self.history.drop(n)
        width = len(self.bias) // self.stride
        laid = made.view(width, self.stride, n).transpose(1, 2).reshape(width, n * self.stride)
        return self._cut(laid, x.shape[1], last)

    def _cut(self, laid: Tensor, inputs: int, last: bool) -> Tensor:
        """Remove the steps before the first sample and after the last sample."""
        first = min(self.skip, laid.shape[1])
        self.skip, self.inputs = self.skip - first, self.inputs + inputs
        end = laid.shape[1] if not last else first + self.inputs * self.stride - self.emitted
        self.emitted += min(end, laid.shape[1]) - first
        return laid[:, first:end]


class _Last(_Transposed):
    """Streaming step of the last transposed convolution of a decoder, joined with the convolution after it."""

    def __init__(self, up: Upsampling, out: nn.Conv1d) -> None:
        super().__init__(*joined_kernel(up, out))
        self.up, self.out = up, out
        self.first: Tensor | None = None  # first input (1, w) of the song
        self.last: Tensor | None = None  # latest input (1, w)

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        if x.shape[1]:
            self.first = x[:, :1].T.clone() if self.first is None else self.first
            self.last = x[:, -1:].T.clone()
        silent, y = self.emitted == 0, super().__call__(x, last)
        if y.shape[1] and self.first is not None and self.last is not None:
            before, after = beyond(self.first, self.last, self.up, self.out)
            y[:, 0] -= before[0] * silent
            y[:, -1] -= after[0] * last
        return y
