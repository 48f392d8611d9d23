"""A small network, trained on real songs only, that recognises artist, genre and sung characters in audio.

The network evaluates generated audio, so it is not trained on generated audio. The input is log-mel frames, 50 per second. Two
stacks of convolutions read it. One returns a class for each frame: a vowel, a consonant or no singing. The other returns the
artist and the genre of each segment of four seconds. In training the bands have random gains, so that weak treble does not
identify an artist. The characters of a word have the times at which `data_prep.synthetic.voice` sings them. With real lyrics
the classes follow the spelling, not the sound. Then the accuracy on true songs is the upper limit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.files import replacing
from data_prep.labels import name_key
from data_prep.synthetic.voice import VOWELS, Syllable, character_spans, split_syllables
from jukebox.evaluation.metrics import log_mel
from jukebox.song import Song

BANDS, RATE, SEGMENT = 64, 50, 4.0  # mel bands, frames per second, seconds
SILENT, CONSONANT = 0, 1  # classes of a frame; vowel i of VOWELS is class 2 + i
BALANCED = VOWELS[:5]  # y is rare
GLIDE = 0.03  # seconds at both ends of a vowel with moving formants
EMPTY = -1  # the target of an unknown label


@dataclass(frozen=True)
class RecogniserConfig:
    """Labels in the order of their classes, and the sample rate of the audio."""

    artists: tuple[str, ...]
    genres: tuple[str, ...]
    sample_rate: int
    width: int = 96


def mel_frames(audio: Float[Tensor, "*c t"] | np.ndarray, sample_rate: int) -> Float[Tensor, "bands n"]:
    """Log-mel frames of audio in units of 10 dB above -60 dB. Channels are averaged."""
    x = torch.as_tensor(audio).float()
    return log_mel(x.reshape(-1, x.shape[-1]).mean(0), sample_rate, BANDS, RATE, 0.046).clamp(min=-60) / 10 + 6


def sung_characters(song: Song) -> Iterator[tuple[str, float, float]]:
    """Yield (character, start, end) in seconds for each sung character. All syllables of a word have the same duration."""
    for word, start, end in song.word_times:
        parts = split_syllables(word)
        step = (end - start) / len(parts)
        for i, part in enumerate(parts):
            yield from character_spans(Syllable(part, 0.0, start + i * step, start + (i + 1) * step))


def frame_classes(song: Song, frames: int, margin: float = 0.0) -> Int[Tensor, " n"]:
    """Return the class of each frame. Frames within `margin` seconds of the start or end of a vowel are EMPTY."""
    classes = np.full(frames, SILENT)
    for character, start, end in sung_characters(song):
        a, b = round(start * RATE), round(end * RATE)
        if character not in VOWELS:
            classes[a:b] = CONSONANT
            continue
        classes[a:b] = EMPTY
        classes[round((start + margin) * RATE) : round((end - margin) * RATE)] = 2 + VOWELS.index(character)
    return torch.from_numpy(classes)


class RecogniserNet(nn.Module):
    """Maps frames (b, bands, n) to logits: of frames (b, 8, n), and of artists (b, A) and genres (b, G) for the whole input."""

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        c = config.width
        self.mean, self.std = (nn.Buffer(fill(BANDS, 1)) for fill in (torch.zeros, torch.ones))
        self.frames = nn.Sequential(
            nn.Conv1d(BANDS, c, 5, padding=2), nn.GELU(), nn.Dropout(0.1), nn.Conv1d(c, c, 5, padding=4, dilation=2), nn.GELU(),
            nn.Dropout(0.1), nn.Conv1d(c, 2 + len(VOWELS), 1),
        )  # fmt: skip
        self.segments = nn.Sequential(
            nn.Conv1d(BANDS, c, 5, stride=2, padding=2), nn.GELU(), nn.Conv1d(c, c, 9, stride=2, padding=4), nn.GELU(),
            nn.Conv1d(c, c, 9, padding=8, dilation=2), nn.GELU(),
        )  # fmt: skip
        self.labels = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * c, len(config.artists) + len(config.genres)))
        self.artists = len(config.artists)

    def sung(self, mel: Float[Tensor, "b bands n"]) -> Float[Tensor, "b k n"]:
        return self.frames((mel - self.mean) / self.std)

    def forward(self, mel: Float[Tensor, "b bands n"]) -> tuple[Tensor, Tensor]:
        x = self.segments((mel - self.mean) / self.std)
        both = self.labels(torch.cat([x.mean(-1), x.amax(-1)], 1))
        return both[:, : self.artists], both[:, self.artists :]


def _digest(config: RecogniserConfig, state: dict[str, Tensor]) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the configuration and all tensors."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class Recogniser:
    """A trained network with its labels. `hash` is the start of the SHA-256 of configuration and weights (12 digits)."""

    def __init__(self, config: RecogniserConfig, net: RecogniserNet) -> None:
        self.config, self.net = config, net.eval()
        self.hash = _digest(config, net.state_dict())

    def save(self, path: Path) -> None:
        """Write a safetensors file with the configuration (json) and the hash in its header."""
        header = {"recogniser": json.dumps(asdict(self.config)), "hash": self.hash}
        with replacing(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.net.state_dict().items()}, temporary, header)

    @staticmethod
    def load(path: Path) -> Recogniser:
        """Read a file written by `save`; raise UserError for another file, or if the weights do not match the hash."""
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            fields = json.loads(header["recogniser"])
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path}: expected a recogniser written by this version ({error}); train it again") from None
        config = RecogniserConfig(**fields | {key: tuple(fields[key]) for key in ("artists", "genres")})
        if (found := _digest(config, state)) != header["hash"]:
            raise UserError(f"{path}: its weights have the hash {found}, its header has {header['hash']}; train it again")
        net = RecogniserNet(config)
        net.load_state_dict(state)
        return Recogniser(config, net)

    @torch.no_grad()
    def segment_labels(self, audio: Float[Tensor, "*c t"] | np.ndarray) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
        """Return the artist's class and the genre's class of each segment of four seconds. Segments begin every two seconds."""
        mel, length = mel_frames(audio, self.config.sample_rate), round(SEGMENT * RATE)
        mel = F.pad(mel, (0, max(0, length - mel.shape[1])))
        artist, genre = self.net(mel.unfold(1, length, length // 2).transpose(0, 1))  # (S, bands, length)
        return artist.argmax(1), genre.argmax(1)

    def labels(self, audio: Float[Tensor, "*c t"] | np.ndarray) -> tuple[str, str]:
        """Return the most frequent artist and the most frequent genre of the segments."""
        artist, genre = (int(x.mode().values) for x in self.segment_labels(audio))
        return self.config.artists[artist], self.config.genres[genre]

    @torch.no_grad()
    def sung(self, audio: Float[Tensor, "*c t"] | np.ndarray) -> Int[Tensor, " n"]:
        """Return the class of each frame (50 per second): SILENT, CONSONANT or 2 + the index in VOWELS ("aeiouy")."""
        return self.net.sung(mel_frames(audio, self.config.sample_rate)[None])[0].argmax(0)


def label_accuracy(recogniser: Recogniser, audio: Float[Tensor, "*c t"] | np.ndarray, song: Song) -> tuple[float, float]:
    """Return the shares of segments classified as the song's artist, and as one of the song's genres.

    A share is nan if the song has no artist or genre that the recogniser knows.
    """
    artist, genre = recogniser.segment_labels(audio)
    known = (
        _label_numbers(recogniser.config.artists, (song.artist or "",)),
        _label_numbers(recogniser.config.genres, song.genres),
    )
    shares = [torch.isin(a, torch.tensor(b)).float().mean().item() if b else np.nan for a, b in zip((artist, genre), known)]
    return shares[0], shares[1]


def vowel_accuracy(recogniser: Recogniser, audio: Float[Tensor, "*c t"] | np.ndarray, song: Song) -> float:
    """Share of frames with a sung vowel that are classified as this vowel, averaged over the vowels that occur (a, e, i, o, u).

    The classes consonant and no singing are wrong too, so audio without a voice scores 0. The result is nan without word times.
    """
    read = recogniser.sung(audio)
    true = frame_classes(song, len(read), GLIDE)
    shares = [(read[true == c] == c).float().mean() for c in range(2, 2 + len(BALANCED)) if (true == c).any()]
    return torch.stack(shares).mean().item() if shares else np.nan


def _label_numbers(known: Sequence[str], names: Iterable[str]) -> list[int]:
    keys = [name_key(name) for name in known]
    return [keys.index(name_key(name)) for name in names if name_key(name) in keys]


class _Crops:
    """Samples random segments of the training songs, with targets and with random gains of the bands."""

    def __init__(self, data: Iterable[tuple[np.ndarray, Song]], sample_rate: int) -> None:
        self.mel, self.songs, self.classes = [], [], []
        for audio, song in data:
            self.mel.append(mel_frames(audio, sample_rate))
            self.songs.append(song)
            self.classes.append(frame_classes(song, self.mel[-1].shape[1]))
        self.length = round(SEGMENT * RATE)

    def label_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the artists and the genres of the songs, each sorted by name."""
        artists = {song.artist for song in self.songs if song.artist}
        return tuple(sorted(artists)), tuple(sorted({genre for song in self.songs for genre in song.genres}))

    def label_targets(self, config: RecogniserConfig) -> Int[Tensor, "songs 2"]:
        """Return the classes of artist and first genre of each song; EMPTY for an unknown one."""
        found = [((s.artist or "",), config.artists, s.genres[:1], config.genres) for s in self.songs]
        return torch.tensor([[(*_label_numbers(k, n), EMPTY)[0] for n, k in ((a, b), (c, d))] for a, b, c, d in found])

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample segments: frames (count, bands, n), classes of the frames (count, n) and indices of the songs (count,)."""
        songs = torch.randint(len(self.mel), (count,), generator=rng)
        mel, classes = [], []
        for song in songs.tolist():
            start = int(torch.randint(max(1, self.mel[song].shape[1] - self.length + 1), (), generator=rng))
            piece = slice(start, start + self.length)
            missing = (0, max(0, self.length - self.mel[song].shape[1]))
            mel.append(F.pad(self.mel[song][:, piece], missing))
            classes.append(F.pad(self.classes[song][piece], missing, value=EMPTY))
        gains = torch.randn(count, 5, generator=rng) * 0.3  # 3 dB, at five frequencies
        gains = F.interpolate(gains[:, None], BANDS, mode="linear", align_corners=True)[:, 0, :, None]
        x = torch.stack(mel)
        noise = 0.2 * torch.randn(x.shape, generator=rng)
        return (x + gains * (x > 0) + noise).clamp(min=0), torch.stack(classes), songs


def train_recogniser(
    data: Iterable[tuple[Float[np.ndarray, "*c t"], Song]], sample_rate: int, *, seed: int = 0, steps: int = 400
) -> Recogniser:
    """Train a recogniser on real training songs. Training is deterministic on one machine.

    Raise UserError if no song has an artist, or no song has a genre.
    """
    crops = _Crops(data, sample_rate)
    artists, genres = crops.label_names()
    if not (artists and genres):
        raise UserError(
            f"{len(crops.songs)} songs with {len(artists)} artists and {len(genres)} genres: expected 1 or more of each"
        )
    config = RecogniserConfig(artists, genres, sample_rate)
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RecogniserNet(config)
        everything = torch.cat(crops.mel, 1)
        net.mean.copy_(everything.mean(1, keepdim=True))
        net.std.copy_(everything.std(1, keepdim=True).clamp(min=0.1))
        _fit(net, crops, crops.label_targets(config), steps, rng)
    return Recogniser(config, net)


def _fit(net: RecogniserNet, crops: _Crops, labels: Int[Tensor, "songs 2"], steps: int, rng: torch.Generator) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        mel, classes, songs = crops.draw(16, rng)
        artist, genre = net(mel)
        loss = F.cross_entropy(net.sung(mel), classes, ignore_index=EMPTY)
        for logits, target in ((artist, labels[songs, 0]), (genre, labels[songs, 1])):
            if (target != EMPTY).any():
                loss = loss + 0.5 * F.cross_entropy(logits, target, ignore_index=EMPTY)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
