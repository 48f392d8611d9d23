"""Evidence over several seeds: the spectral route of the demo with longer training, compared with real songs and controls.

    each seed: songs -> prepare -> recogniser -> codec -> encode -> prior -> sampled songs -> figures; then one table over seeds

The recogniser is trained on real songs only, before anything is sampled. Every step skips existing results.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.align import TimedText
from data_prep.files import replacing, write_json
from data_prep.synthetic.annotation import Seconds
from data_prep.synthetic.songs import make_corpus, make_song
from jukebox.evaluation import metrics
from jukebox.evaluation.recogniser import Recogniser
from jukebox.evaluation.sound import EvaluatedSong, control_pieces, shuffled_codes, song_rows, song_table, unigram_codes
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.demo.claims import check
from launch.demo.figures import REFERENCE_SONGS, SECONDS, Corpus, Rows, read_json, run_pieces, truth_of
from launch.demo.lanes import LENGTHS, RECOGNISER, Clock, Parts, run_lanes
from launch.demo.songs import SongPlan, request_seed, requested
from vqvae.codec import as_tensor
from vqvae.spectral.config import TOKENS

SEEDS = 3
SCALE = 3.6  # factor on the demo's steps and minutes; three seeds share two cores, so each trains 2.4 times as much as the demo
FIGURES = "figures.json"
Groups = dict[str, list[EvaluatedSong]]


def make_evidence(out: Path, songs: int, seed: int, scale: float, preset: str) -> None:
    """Make the evidence of SEEDS seeds in the folder `out`, with `songs` synthetic songs per seed, and print its tables."""
    folders, clock, lanes = {s: out / f"seed_{s}" for s in range(seed, seed + SEEDS)}, Clock(), []
    with clock.step("synthetic songs"):
        for s, folder in folders.items():
            if not (folder / "corpus" / "songs.jsonl").is_file():
                make_corpus(folder / "corpus", songs, seed=s, seconds=LENGTHS)
            parts, longest = Parts(folder, find(preset), preset, scale * SCALE, s), SongPlan.longest if s == seed else 0.0
            sample = ["songs", str(folder), "--seed", str(s), "--longest", f"{longest:g}"]
            steps = [*parts.prepare(songs), parts.recogniser(), *parts.spectral(), sample]
            lanes.append([*steps, ["figures", str(folder), "--seed", str(s)]])
    with clock.step("seeds: recogniser, codec, prior, songs, figures"):
        run_lanes(out, lanes, [folder.name for folder in folders.values()])
    gather(out, folders)
    print("\n" + clock.table())


# ---- one seed


def figures(folder: str, *, seed: int = 0) -> None:
    """Measure the songs of one seed of the evidence, with real songs and controls, unless it is done.

    folder: folder of the seed, with data, model, recogniser and songs
    seed: seed of the corpus
    """
    if not (Path(folder) / FIGURES).is_file():
        measure(Path(folder), seed, SongPlan(), LENGTHS)


def measure(folder: Path, seed: int, plan: SongPlan, lengths: Seconds) -> None:
    """Measure the songs of a seed and write its figures; the corpus has songs of `lengths` seconds."""
    corpus = Corpus(ModelFolder.from_pretrained(folder / "model"), folder / "data")
    reader = Recogniser.load(folder / RECOGNISER)
    sung = {path.name: Run.open(path) for path in sorted((folder / "songs").iterdir())}
    groups = true_groups(corpus, seed, plan, lengths) | sampled_groups(sung, plan)
    groups |= controls(corpus, groups["generated"], seed)
    groups = {name: pieces for name, pieces in groups.items() if pieces}
    rows = song_rows(groups, reader, corpus.training())
    for row, pieces in zip(rows, groups.values(), strict=True):
        row["seconds"] = float(np.mean([piece.audio.shape[-1] for piece in pieces]) / corpus.model.sample_rate)
    write_json(folder / FIGURES, {"seed": seed, "recogniser": reader.hash, "rows": rows})


def true_groups(corpus: Corpus, seed: int, plan: SongPlan, lengths: Seconds) -> Groups:
    """Return the groups of real audio: held-out songs with reconstructions and parts after a prompt, and requested songs."""
    held, made = [], []
    for row in corpus.held[: plan.held]:
        piece, truth = corpus.piece(row, plan.seconds), truth_of(row, seed, lengths)
        audio = decoded(corpus.model, corpus.codes(row, plan.seconds))
        held.append(piece._replace(original=piece.audio, truth=truth))
        made.append(EvaluatedSong(audio, piece.song, None, piece.audio[:, : audio.shape[1]], truth))
    return {
        "held-out songs": held,
        "reconstructed": made,
        "held-out songs, after a prompt": [corpus.piece(r, plan.new, plan.prompt) for r in corpus.held[: plan.songs]],
        "true songs of the requests": true_songs(corpus, seed, plan),
        "true songs, unseen words": true_songs(corpus, seed, plan, unseen=True),
    }


def true_songs(corpus: Corpus, seed: int, plan: SongPlan, unseen: bool = False) -> list[EvaluatedSong]:
    """Synthesise the requested songs, like the songs of the corpus."""
    found = []
    for number in range(plan.songs):
        a = requested(seed, number, plan.seconds, unseen)
        made = make_song(
            request_seed(seed, number), seconds=plan.seconds, sample_rate=corpus.model.sample_rate, channels=corpus.model.spec.channels,
            artist=a.artist, genre=a.genre, lyrics=a.lyrics,
        )  # fmt: skip
        times = tuple(TimedText(*word) for word in made.words)
        found.append(EvaluatedSong(made.audio, Song(a.artist, (a.genre,), a.lyrics, times, plan.seconds)))
    return found


def sampled_groups(sung: Mapping[str, Run], plan: SongPlan) -> Groups:
    """Return the sampled songs by the names of their rows; long songs have a first and a last part."""
    groups = {
        "generated": run_pieces(sung["generated"]),
        "generated, unseen words": run_pieces(sung["unseen"]),
        "continued, new part": [p for name, run in sung.items() if name.startswith("continued") for p in run_pieces(run)],
    }
    for name, seconds in (("minute", plan.minute), ("longest", plan.longest)):
        if name in sung:
            groups[f"{name}, first part"] = run_pieces(sung[name], 0.0, plan.edge)
            groups[f"{name}, last part"] = run_pieces(sung[name], seconds - plan.edge, plan.edge)
    return groups | {"untrained prior": run_pieces(sung["untrained"])}


def controls(corpus: Corpus, made: Sequence[EvaluatedSong], seed: int) -> Groups:
    """Return controls of generated songs: false conditions, false order, false tokens, and real songs of other requests."""
    rng, model = np.random.default_rng([seed, 11]), corpus.model
    training = [corpus.audio(row, SECONDS) for row in corpus.train[:REFERENCE_SONGS]]
    codes = [corpus.codes(row) for row in corpus.train]
    shuffled, unigram, alike = [], [], []
    for piece in made:
        assert piece.codes is not None  # whole runs have codes
        shuffled.append(EvaluatedSong(decoded(model, shuffled_codes(piece.codes, rng)), piece.song))
        unigram.append(EvaluatedSong(decoded(model, unigram_codes(codes, len(piece.codes), rng)), piece.song))
        for row in [r for r in corpus.train if r.artist == piece.song.artist and r.genres == piece.song.genres][:1]:
            seconds = piece.audio.shape[-1] / model.sample_rate
            alike.append(EvaluatedSong(corpus.audio(row, seconds), piece.song, corpus.codes(row, seconds)))
    found = control_pieces(made, training, model.sample_rate, seed)
    return found | {
        "tokens shuffled in time": shuffled, "unigram tokens": unigram, "training songs of the same labels": alike,
    }  # fmt: skip


def decoded(model: ModelFolder, codes: np.ndarray) -> np.ndarray:
    """Decode tokens (t, books) to audio (C, T)."""
    return model.codec([TOKENS]).decode_long(as_tensor(np.ascontiguousarray(codes))[None], TOKENS)[0].numpy()


# ---- over seeds


def over_seeds(rows: Sequence[Rows]) -> dict[str, dict[str, list[float]]]:
    """Return {row: {figure: its value for each seed, nan if missing}}."""
    seeds = [{str(row["what"]): row for row in of_seed} for of_seed in rows]
    names = dict.fromkeys(name for seed in seeds for name in seed)
    keys = dict.fromkeys(key for seed in seeds for row in seed.values() for key in row)
    figures = [key for key in keys if key not in ("what", "pieces") and not key.endswith("_se")]

    def value(row: Mapping[str, str | int | float | None], key: str) -> float:
        found = row.get(key)
        return np.nan if found is None else float(found)

    return {name: {key: [value(seed.get(name, {}), key) for seed in seeds] for key in figures} for name in names}


def mean_rows(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Rows:
    """Return the mean of every figure over the seeds and, as `NAME_se`, its standard deviation, as rows of `song_table`."""
    table: Rows = []
    for what, figures in values.items():
        row: dict[str, str | int | float | None] = {"what": what}
        for key, of_seeds in figures.items():
            known = [value for value in of_seeds if np.isfinite(value)]
            row[key] = float(np.mean(known)) if known else None
            row[f"{key}_se"] = float(np.std(known, ddof=1)) if len(known) > 1 else None
        table.append(row)
    return table


def gather(out: Path, folders: Mapping[int, Path]) -> None:
    """Print the tables over seeds, and write evidence.json and evidence.csv (a line for each row, figure and seed)."""
    found = [read_json(folder / FIGURES) for folder in folders.values()]
    values = over_seeds([each["rows"] for each in found])
    rows, claims = mean_rows(values), check(values)
    hashes = {str(each["seed"]): each["recogniser"] for each in found}
    listed = [claim._asdict() | {"figure": claim.figure if np.isfinite(claim.figure) else None} for claim in claims]
    write_json(out / "evidence.json", {"recognisers": hashes, "rows": rows, "claims": listed})
    with replacing(out / "evidence.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sound", "figure", "seed", "value"])
        for each in found:
            for row in each["rows"]:
                writer.writerows(
                    [row["what"], key, each["seed"], v] for key, v in row.items() if key != "what" and v is not None
                )
    print("\nrecognisers: " + ", ".join(f"seed {s} {digest}" for s, digest in hashes.items()))
    print(f"mean and spread (standard deviation) over {len(found)} seeds\n{song_table(rows)}\n")
    print(metrics.table([["claim", "figure", "target", "met"], *[[*c[:3], "yes" if c.met else "no"] for c in claims]]))
    print(f"\nwritten to {out / 'evidence.json'} and {out / 'evidence.csv'}")
