"""What fine-tuning learns and forgets, over seeds: a new artist's bits per code before and after, beside the old artists'.

    python tests/finetune_evidence.py OUT DEMO [DEMO ..]     DEMO: folders that `jukebox demo` has left (model, data)

Each DEMO is one seed: its top prior is tuned on songs of an artist that no demo knows, by labels alone, by LoRA and as a whole,
with old songs rehearsed and without. Bits are of held-out songs, window after window. Controls: the new artist's songs under
the name of an old one, and the old artists' bits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data_prep.manifest import load_manifest, prepare
from data_prep.synthetic.band import NEWCOMER
from data_prep.synthetic.songs import make_corpus
from jukebox.evaluation.figures import window_bits
from jukebox.model.codes import open_codes
from jukebox.model.folder import ModelFolder
from jukebox.song import prepare_all, song_of, window_conditions
from launch.corpus.encode import encode
from launch.training.train import train

STEPS = 300
ARMS: dict[str, dict] = {
    "labels": {"tune": "labels"},
    "lora": {"tune": "lora"},
    "lora, rehearsed": {"tune": "lora", "rehearse": "old"},
    "all, rehearsed": {"tune": "all", "rehearse": "old"},
}


def song_bits(model: ModelFolder, data: Path, level: int, artist: str | None = None) -> dict[str, list[float]]:
    """Artist -> bits per code of each of its held-out songs, all labelled with `artist` if given."""
    name = f"prior_{level}"
    prior = model.prior(name)
    (stream,), reads, n, ratio = prior.spec.writes, prior.spec.reads, prior.config.n_ctx, prior.config.ratio
    codes, found = open_codes(data, model.info, [stream, *reads]), {}
    for row in load_manifest(data):
        if row.split != "test" or codes.length(row.song, stream) < n:
            continue
        song = song_of(row if artist is None else replace(row, artist=artist))
        (ready,) = prepare_all([song], model.labels_of(name), model.vocabulary, model.sample_rate)
        starts = range(0, codes.length(row.song, stream) - n + 1, n)
        rows = [codes.read(row.song, stream, start, start + n) for start in starts]
        above = [codes.read(row.song, reads[0], s // ratio, (s + n) // ratio) if reads else None for s in starts]
        conditions = [window_conditions(ready, prior.config, s, a) for s, a in zip(starts, above, strict=True)]
        bits = window_bits(prior, torch.from_numpy(np.stack(rows).astype(np.int64)), conditions)
        found.setdefault(row.artist or "", []).append(float(bits.mean()))
    return found


def mean(bits: Mapping[str, list[float]]) -> float:
    return float(np.mean([value for values in bits.values() for value in values]))


def new_songs(folder: Path, count: int, seed: int, seconds: float = 20.0) -> Path:
    """A data folder of songs by the new artist, a quarter held out."""
    if not (folder / "data" / "manifest.parquet").is_file():
        corpus = make_corpus(folder / "corpus", count, seed=1000 + seed, seconds=seconds, artist=NEWCOMER.name, workers=1)
        prepare(corpus / "songs.jsonl", folder / "data", test_share=0.25, workers=1)
    return folder / "data"


def seed_of(out: Path, demo: Path, seed: int, level: int = 2) -> dict:
    """One seed: bits of both groups of songs, before and after every arm."""
    old_data, model = demo / "data", ModelFolder.from_pretrained(demo / "model")
    data = new_songs(out / "songs", 64, seed)
    encode(str(data), str(model.folder), levels=str(level), threads=1)
    found = {"before": {"new": mean(song_bits(model, data, level)), "old": mean(song_bits(model, old_data, level))}}
    for arm, params in ARMS.items():
        target = out / arm.replace(", ", "_")
        params = params | ({"rehearse": str(old_data)} if "rehearse" in params else {})
        where = {"from_model": str(model.folder), "out": str(target), "level": level, "preset": "demo"}
        train("prior", str(data), **where, steps=STEPS, seed=seed, threads=1, **params)
        tuned = ModelFolder.from_pretrained(target)
        found[arm] = {
            "new": mean(song_bits(tuned, data, level)), "old": mean(song_bits(tuned, old_data, level)),
            "new under an old name": mean(song_bits(tuned, data, level, artist="Night Ferry")),
            "minutes": json.loads((target / "training" / f"prior_{level}" / "log.jsonl").read_text().splitlines()[-1])["minutes"],
        }  # fmt: skip
        print(seed, arm, found[arm], flush=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, demos = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    figures = [seed_of(out / demo.name, demo, seed) for seed, demo in enumerate(demos)]
    (out / "finetune.json").write_text(json.dumps(figures, indent=1))
    for arm in figures[0]:
        new, old = ([f[arm][what] / f["before"][what] - 1 for f in figures] for what in ("new", "old"))
        print(f"{arm:18} new {' '.join(f'{x:+.1%}' for x in new)}   old {' '.join(f'{x:+.2%}' for x in old)}")
