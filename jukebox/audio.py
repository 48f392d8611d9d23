"""Audio: samples with their sample rate, an argument and a result of the Python API."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import read, to_pcm
from data_prep.audio.writers import write_audio
from jukebox.model.code_file import Codes


@dataclass(frozen=True)
class Audio:
    """Samples (channels, n) float32 in [-1, 1] at `sample_rate` Hz; `codes` are the codes of the audio, if known.

    A notebook shows a player for the audio.
    """

    samples: Float[np.ndarray, "c n"]
    sample_rate: int
    codes: Codes | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def load(path: str | Path) -> Audio:
        """Read an audio file at its own sample rate and channels; raise BadAudio if the file cannot be decoded."""
        return Audio(*read(path))

    @property
    def channels(self) -> int:
        return self.samples.shape[0]

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.sample_rate

    def save(self, path: str | Path) -> Path:
        """Write the audio as .wav, .aif or .aiff (16 bits), .flac (24 bits), .ogg, .opus or .mp3, by the suffix of `path`.

        Opus and mp3 support few sample rates; audio is resampled to the next higher rate. Raise UserError for other suffixes.
        """
        write_audio(path, self.samples, self.sample_rate)
        return Path(path)

    def __repr__(self) -> str:
        return f"Audio({self.seconds:.2f} s, {self.sample_rate} Hz, {self.channels} channel{'s' * (self.channels != 1)})"

    def _repr_html_(self) -> str:
        """An HTML player that contains the audio, for notebooks."""
        import wave

        pcm, buffer = to_pcm(self.samples, "audio"), io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((self.channels, 2, self.sample_rate, 0, "NONE", "not compressed"))
            file.writeframes(pcm.T.tobytes())
        return f'<audio controls src="data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"></audio>'
