"""Evaluate a model of recordings: its codec, its prior and continuations of held-out tracks; each figure has a control.

    codec           held-out tracks decoded from tokens, and from the levels of another model; noise of the same spectrum
    prior           bits per frame on held-out tracks, with unigram frequencies of the training songs and another artist and
                    genre
    continuations   of held-out tracks: the new part compared with its prompt, with prompts of other tracks, and the true
                    continuation

Frechet distances are computed for all tracks together, because for a single track they are large for real music too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from data_prep.audio.audio import write_wav
from data_prep.errors import UserError
from data_prep.files import replacing, write_json
from jukebox.api import Jukebox
from jukebox.evaluation import metrics
from jukebox.evaluation.figures import prior_figures
from jukebox.evaluation.held_out import hold_out
from jukebox.evaluation.reconstruction import mono_sound
from jukebox.evaluation.sound import coloured_noise, tempo, tempo_is_right
from jukebox.model.folder import ModelFolder
from jukebox.params import MachineOptions, SamplingOptions
from jukebox.runs import request
from jukebox.song import song_of
from launch.demo.claims import Claim, compared
from launch.demo.figures import REFERENCE_SONGS, SECONDS, Corpus, read_json, run_pieces
from launch.demo.songs import finish_run
from launch.training.log import read_log
from vqvae.codec import as_tensor, effective_dimension
from vqvae.spectral.config import TOKENS

# Hz; energies are compared in the bands between these edges, and the last band ends at half the sample rate
EDGES = (0.0, 500.0, 2000.0, 5000.0)
PROMPT, NEW = 8.0, 12.0  # seconds of the prompt and of its continuation
STARTS = (0.0, 30.0, 60.0)  # seconds at which the prompts of a track begin
WINDOWS = 64  # number of windows for the bits of the prior
FILE = "figures.json"
TRAINED = {"steps": "step", "minutes": "minutes"}  # figure -> name in the log of a training
Waves = Sequence[Float[np.ndarray, "c t"]]
Figures = dict[str, float]
Lengths = tuple[float, float]
Continued = tuple[Float[np.ndarray, "c t"], Float[np.ndarray, "c u"]]  # audio of a prompt, and audio that follows it

DECODED, NOISE, NEW_PARTS, OTHERS = "decoded from tokens", "noise of the same spectrum", "new parts", "beside another prompt"
# claim, part, row, figure, row of the divisor (empty: none), relation, target
CLAIMS = (
    ("Frechet distance / held-out tracks'", "codec", DECODED, "frechet", "held-out tracks", "<=", 1.3),
    ("Frechet distance of noise / decoded", "codec", NOISE, "frechet", DECODED, ">=", 1.5),
    ("mel distance, dB", "codec", DECODED, "mel_db", "", "<=", 1.8),
    ("energy of the worst band, dB", "codec", DECODED, "worst_band_db", "", "<=", 2.0),
    ("peakiness / true", "codec", DECODED, "peakiness", "held-out tracks", ">=", 0.9),
    ("bits per frame / unigram", "prior", "tokens", "bits", "unigram", "<=", 1.0),
    ("another artist and genre, z by song", "prior", "another artist and genre", "z_songs", "", ">=", 3.0),
    ("Frechet distance of noise / new parts", "continuations", NOISE, "frechet", NEW_PARTS, ">=", 1.0),
    ("chroma correlation with the prompt", "continuations", NEW_PARTS, "chroma", "", ">=", 0.4),
    ("chroma correlation with another prompt / with the own", "continuations", OTHERS, "chroma", NEW_PARTS, "<=", 0.6),
    ("timbre distance to another prompt / to the own", "continuations", OTHERS, "timbre_db", NEW_PARTS, ">=", 1.2),
    ("tempo kept / by true ones", "continuations", NEW_PARTS, "tempo_kept", "true continuations", ">=", 0.5),
)


def figures(model: str, data: str, *, levels: str = "", continuations: int = 12, seed: int = 0) -> None:
    """Measure a model on the held-out tracks of a data folder, unless it is done; the results and continuations are in
    MODEL_figures.

    model: model folder with the spectral route
    data: data folder that it was trained on
    levels: model folder of a three-level codec to compare with (empty: none)
    continuations: held-out tracks to continue
    seed: seed of the continuations
    """
    out = Path(model).with_name(f"{Path(model).name}_figures")
    if not (out / FILE).is_file():
        measure(Path(model), Path(data), out, Path(levels) if levels else None, continuations, seed)
    print(tables(read_json(out / FILE)))


def measure(
    model: Path, data: Path, out: Path, levels: Path | None, continuations: int, seed: int, lengths: Lengths = (PROMPT, NEW)
) -> None:
    """Write the figures of a model into `out`; each continuation is a run in `out`, so that it can be resumed.

    `lengths` are the seconds of a prompt and of its continuation.
    """
    corpus = Corpus(Jukebox.from_pretrained(model), data)
    if len(corpus.held) < 2:
        raise UserError(f"{data} has {len(corpus.held)} held-out tracks; expected 2 or more: prepare more songs")
    rate = corpus.model.sample_rate
    reference = torch.cat([metrics.sound_features(corpus.audio(row, SECONDS), rate) for row in corpus.train[:REFERENCE_SONGS]])
    made = continuation_rows(corpus, out, reference, continuations, seed, lengths)
    rows = {"codec": codec_rows(corpus, reference, levels), "prior": prior_rows(corpus, seed), "continuations": made}
    write_json(out / FILE, {"tracks": len(corpus.held), **rows})


def codec_rows(corpus: Corpus, reference: torch.Tensor, levels: Path | None) -> dict[str, Figures]:
    """Return the rows of the codec: held-out tracks, their reconstructions from each stream, and noise."""
    true, rows = [corpus.audio(row, SECONDS) for row in corpus.held], {}
    for model in (corpus.model, *([ModelFolder.from_pretrained(levels)] if levels else [])):
        own, rate = Corpus(model, corpus.data), model.sample_rate
        waves = [torch.from_numpy(own.audio(row, SECONDS)) for row in own.held]
        for stream in model.trained_streams():
            codec = model.codec([stream])
            frames = [codec.encode_long(wave[None], [stream])[stream] for wave in waves]
            made = [codec.decode_long(each, stream)[0].numpy() for each in frames]
            rows[f"decoded from {stream}"] = wave_figures(made, [wave.numpy() for wave in waves], rate, reference)
            if not model.spec.stream(stream).bins:
                rows[f"decoded from {stream}"]["effective_dimension"] = effective_dimension(torch.cat(frames, 1)).item()
    sets = {"held-out tracks": true, NOISE: [coloured_noise(wave) for wave in true]}
    return {name: wave_figures(x, true, corpus.model.sample_rate, reference) for name, x in sets.items()} | rows


def wave_figures(made: Waves, true: Waves, rate: int, reference: torch.Tensor) -> Figures:
    """Measure reconstructed tracks: means over the tracks, and one Frechet distance of all tracks together."""
    pairs = [(mono_sound(x), mono_sound(y)[: x.shape[-1]]) for x, y in zip(made, true, strict=True)]
    edges = (*EDGES, rate / 2)
    bands = torch.cat([metrics.band_energy_db(y[None], x[None], rate, edges) for x, y in pairs]).mean(0).tolist()
    found = {
        "frechet": pooled(made, rate, reference),
        "mel_db": float(np.mean([metrics.mel_distance(x, y, rate) for x, y in pairs])),
        "peakiness": float(np.mean([metrics.sound_statistics(wave, rate).peakiness for wave in made])),
        "worst_band_db": max(map(abs, bands)),
    }
    return found | {f"band_{low:.0f}_{high:.0f}_db": value for (low, high), value in zip(pairwise(edges), bands, strict=True)}


def pooled(waves: Waves, rate: int, reference: torch.Tensor) -> float:
    """Return the Frechet distance between `reference` and the features of all tracks together."""
    return metrics.frechet_distance(reference, torch.cat([metrics.sound_features(wave, rate) for wave in waves]))


def prior_rows(corpus: Corpus, seed: int) -> dict[str, Figures]:
    """Return bits per frame of the prior, of unigram frequencies, and of the prior with another artist and genre."""
    model, name = corpus.model, corpus.model.info.route("spectral").priors[TOKENS]
    held, bins = hold_out(model, corpus.data, 0), model.spec.stream(TOKENS).bins or 0
    found = prior_figures(model, held, name, WINDOWS, seed)
    train, test = (
        as_tensor(np.concatenate(x)) for x in (list(map(corpus.codes, corpus.train)), [c[TOKENS] for c in held.codes])
    )
    unigram = sum(metrics.unigram_bits(test[:, i], train[:, i], bins) for i in range(train.shape[1]))
    rows = {"tokens": {"bits": found["bits"], "se": found["se"]}, "unigram": {"bits": unigram}}
    if labels := found["controls"].get("labels") or found["controls"].get("artist"):
        rows["another artist and genre"] = {"bits": labels["control_bits"], **{k: labels[k] for k in ("difference", "z_songs")}}
    return rows


def continuation_rows(
    corpus: Corpus, out: Path, reference: torch.Tensor, count: int, seed: int, lengths: Lengths
) -> dict[str, Figures]:
    """Return the rows of the continuations and of their controls, each compared with prompts.

    Continuations and true continuations are compared with their own prompt and with the prompt of another track. `count` tracks
    are continued, each after up to three prompts.
    """
    settings, rate = request.RunSettings(SamplingOptions(seed=seed), None, MachineOptions()), corpus.model.sample_rate
    (first, new), made, true = lengths, [], []
    rows = [row for row in corpus.held if row.seconds >= first + new][:count]
    pairs = [(start, row) for start in STARTS for row in rows if row.seconds >= start + first + new]
    for i, (start, row) in enumerate(pairs):  # neighbours in this order are different tracks
        prompt, path = corpus.audio(row, first, start), out / f"prompt_{i}.wav"
        write_wav(path, prompt, rate)
        asked = request.continued(corpus.model.info, [song_of(row)], [path], first, first + new, settings)
        run = finish_run(corpus.model, out / f"continued_{i}", asked)  # type: ignore[arg-type]
        made.append((prompt, run_pieces(run)[0].audio))
        true.append((prompt, corpus.audio(row, new, start + first)))
    if len(made) < 2:
        return {}
    groups = {
        NEW_PARTS: made, OTHERS: [(made[i - 1][0], x) for i, (_, x) in enumerate(made)],
        "true continuations": true, "true beside another prompt": [(true[i - 1][0], x) for i, (_, x) in enumerate(true)],
        NOISE: [(prompt, coloured_noise(x)) for prompt, x in true],
    }  # fmt: skip
    return {name: continued_figures(group, rate, reference) for name, group in groups.items()}


def continued_figures(group: Sequence[Continued], rate: int, reference: torch.Tensor) -> Figures:
    """Return the mean similarity of continuations to their prompts, and the Frechet distance of all continuations together."""
    return {
        "frechet": pooled([new for _, new in group], rate, reference),
        "chroma": float(np.mean([chroma_correlation(*each, rate) for each in group])),
        "timbre_db": float(np.mean([timbre_distance(*each, rate) for each in group])),
        "tempo_kept": float(np.mean([tempo_is_right(new, rate, tempo(prompt, rate)) for prompt, new in group])),
        "chroma_change": float(np.mean([metrics.sound_statistics(new, rate).chroma_change for _, new in group])),
    }


def chroma_correlation(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    """Return the correlation of the mean pitch classes of two sounds; 1 means the same distribution of notes."""
    x, y = (metrics.chroma(mono_sound(wave), rate, 4).mean(1).numpy() for wave in (a, b))
    return float(np.nan_to_num(np.corrcoef(x, y)[0, 1]))


def timbre_distance(a: np.ndarray, b: np.ndarray, rate: int) -> float:
    """Return the mean absolute difference in dB of the mean levels of 24 mel bands."""
    x, y = (metrics.log_mel(mono_sound(wave), rate, 24, 20, 0.093).clamp(min=-60).mean(1) for wave in (a, b))
    return (x - y).abs().mean().item()


def tables(found: Mapping[str, Any]) -> str:
    """Format the rows of each part as a plain table."""
    parts = []
    for part in ("codec", "prior", "continuations"):
        columns = list(dict.fromkeys(key for row in found[part].values() for key in row))
        rows = [[name, *(row.get(key) for key in columns)] for name, row in found[part].items()]
        parts.append(metrics.table([[part, *columns], *rows]))
    return "\n\n".join(parts)


def check(found: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield every claim on the figures of one model; a claim without a measurement is not met."""
    for claim, part, row, figure, divisor, relation, target in CLAIMS:
        value = found[part].get(row, {}).get(figure, math.nan)
        if divisor:
            by = found[part].get(divisor, {}).get(figure, math.nan)
            value = value / by if by else math.nan
        yield compared(f"{part}: {claim}", value, relation, target)


def gathered(model: Path) -> dict[str, Any]:
    """Return the figures of a model, with the steps and minutes of the training of its parts."""
    logs = {log.parent.name: read_log(log) for log in sorted(model.glob("training/*/log.jsonl"))}
    training = {part: {name: lines[-1][key] for name, key in TRAINED.items()} for part, lines in logs.items() if lines}
    return {"training": training} | read_json(model.with_name(f"{model.name}_figures") / FILE)


def as_json(claims: Mapping[str, Claim], first: str) -> dict[str, Any]:
    """Return a claim about the model `first`, with the figure of every model (None: not measured)."""
    figures = {name: claim.figure if np.isfinite(claim.figure) else None for name, claim in claims.items()}
    return claims[first]._asdict() | {"figure": figures[first], "models": figures}


def gather(models: tuple[str, ...], *, to: str, ablation: str = "") -> None:
    """Write recordings.json and recordings.csv of the figures of several models; existing figures of other models are kept.

    models: model folders that `figures` measured
    to: folder to write; the claims are about the model main in it, or the first one, beside the figures of the others
    ablation: folder of `jukebox ablate codec`, whose table is kept too (empty: none)
    """
    table = Path(to) / "recordings.json"
    before = read_json(table) if table.is_file() else {"models": {}, "ablation": None}
    found = before["models"] | {Path(model).name: gathered(Path(model)) for model in models}
    names = sorted(found, key=lambda name: name != "main")
    claims = [dict(zip(names, each)) for each in zip(*(check(found[name]) for name in names))]
    kept = read_json(Path(ablation) / "ablation.json") if ablation else before["ablation"]
    listed = [as_json(each, names[0]) for each in claims]
    write_json(table, {"models": found, "claims": listed, "ablation": kept})
    with replacing(Path(to) / "recordings.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "part", "row", "figure", "value"])
        for model, parts in found.items():
            for part in ("training", "codec", "prior", "continuations"):
                rows = parts.get(part, {}).items()
                writer.writerows([model, part, row, key, v] for row, values in rows for key, v in values.items())
    rows = [[each["claim"], *each["models"].values(), each["target"], "yes" if each["met"] else "no"] for each in listed]
    print("\n" + metrics.table([["claim", *names, "target", f"met by {names[0]}"], *rows]))
    print(f"\nwritten to {to}/recordings.json and {to}/recordings.csv")
