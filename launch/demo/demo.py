"""The verb demo: from synthetic songs to trained models and new songs.

Every step is a verb that a user can also run.

    synthetic songs -> prepare -> train the codecs -> encode -> train the priors -> sample, continue, evaluate -> page, tables

Two processes train in parallel: one trains the three levels, the other the spectral codec and its prior. Two processes of one
thread each are 1.5 times as fast as one process of two threads. An interrupted demo continues: every step skips existing
results.
"""

from __future__ import annotations

import json
from pathlib import Path

from data_prep.errors import UserError, keeping
from data_prep.files import write_json
from jukebox.model.info import CONFIG, SHIPPED, SHIPPED_WORD
from launch.demo.lanes import LENGTHS, RECOGNISER, Clock, Command, Parts, run_lanes

FIRST = "first_song"  # folder of the song that the shipped model samples
LEVELS_SECONDS = 8.0  # length in seconds of the song by the three levels, whose sampling is slow
MOST_SONGS, MOST_SECONDS, MOST_SCALE = 100_000, 3_600, 10_000
RUNS = {"Song": "song", "Recording, continued": "continued", "Song by the three levels of raw audio": "song_levels"}
RECORDING = 1_000_003  # first seed of the continued recording and of the lyrics, which are not in the corpus


def demo(
    *, out: str = "demo", songs: int = 320, seconds: float = 20.0, seed: int = 0, scale: float = 1.0, samples: int = 1,
    preset: str = "demo", evidence: bool = False,
) -> None:  # fmt: skip
    """Make synthetic songs, train every level on them, sample a new song, continue a recording, and evaluate.

    out: folder for corpus, data, model, song and continued
    songs: synthetic songs, of 20 to 90 seconds
    seconds: length of the new song, in seconds
    seed: seed of all random numbers
    scale: training steps as a multiple of the preset's
    samples: number of new songs, sampled in parallel
    preset: sizes and training steps
    evidence: train the spectral route longer and with three seeds, and report its songs' figures over seeds with controls; it
        uses the flags out, songs, seed, scale and preset
    """
    if songs < 16:
        raise UserError(f"--songs {songs}: expected at least 16, so that some can be held out")
    if songs > MOST_SONGS or not 0 < seconds <= MOST_SECONDS or not 0 < scale <= MOST_SCALE:
        raise UserError(
            f"--songs {songs:,}, --seconds {seconds:g}, --scale {scale:g}: a demo has up to {MOST_SONGS:,} songs, a new one of up to "
            f"{MOST_SECONDS:,} seconds, and up to {MOST_SCALE:,} times the preset's steps; larger ones are made by the verbs it runs"
        )
    if evidence:
        from launch.demo.evidence import make_evidence

        make_evidence(Path(out), songs, seed, scale, preset)
    else:
        with keeping(f"{out} keeps all results: the same command goes on", Path(out).is_dir):
            make(Path(out), songs, seconds, seed, scale, samples, preset)


def make(out: Path, songs: int, seconds: float, seed: int, scale: float, samples: int, preset: str) -> None:
    """Run the whole demo in the folder `out`."""
    from data_prep.synthetic.songs import make_corpus
    from jukebox.model.presets import find

    clock, parts = Clock(), Parts(out, find(preset), preset, scale, seed)
    training = [parts.spectral(), [parts.recogniser(), *parts.levels()]]  # UserError before anything is written
    with clock.step("a song by the model that comes with the package"):
        artist, genre = write_requests(out, seconds, seed)
        make_first_song(parts.song(FIRST, artist, genre, seconds, 1), out)
    with clock.step("synthetic songs"):
        if not (out / "corpus" / "songs.jsonl").is_file():
            make_corpus(out / "corpus", songs, seed=seed, seconds=LENGTHS)
    with clock.step("prepare"):
        run_lanes(out, [parts.prepare(songs)])
    with clock.step("codecs and priors: spectral beside three levels"):
        run_lanes(out, training)
    evaluate = ["evaluate", parts.model, parts.data, "--windows", "16", "--songs", "4", "--out", str(out / "evaluation.json")]
    with clock.step("songs, continuations, evaluation"):
        run_lanes(out, [
            [parts.song("song", artist, genre, seconds, samples), parts.continuation("continued", artist, genre, samples),
             parts.song("song_levels", artist, genre, min(seconds, LEVELS_SECONDS), samples, "jukebox")],
            [[*evaluate, "--threads", "1"]],
        ])  # fmt: skip
    with clock.step("sound"):
        figures = summarise(out)
    print("\n" + figures)
    print("\n" + clock.table())
    print(f"\nto listen, open {out / 'index.html'} in a browser")


def make_first_song(command: Command, out: Path) -> None:
    """Sample a song with the shipped model, if there is one, before anything is trained."""
    if not (SHIPPED / CONFIG).is_file():
        return print("this package comes without a trained model (`make model` makes it): the first song follows the training")
    run_lanes(out, [[[command[0], SHIPPED_WORD, *command[2:]] if command[0] == "sample" else command]])
    print(f"to listen, open {out / FIRST / 'index.html'} in a browser")


def write_requests(out: Path, seconds: float, seed: int) -> tuple[str, str]:
    """Write the lyrics of the new song and a recording to continue; return the artist and the genre of both.

    Neither song is in the corpus.
    """
    from data_prep.audio.writers import write_audio
    from data_prep.synthetic.songs import make_song

    words, recording = out / "lyrics.txt", out / "recording.mp3"
    out.mkdir(parents=True, exist_ok=True)
    other = make_song(RECORDING + seed, seconds=14.0)
    if not recording.is_file():
        recording.with_suffix(".txt").write_text(other.lyrics + "\n", encoding="utf-8")
        write_audio(recording, other.audio, other.sample_rate)
    if not words.is_file():
        text = make_song(RECORDING + seed + 1, seconds=seconds, artist=other.artist, genre=other.genre)
        words.write_text(text.lyrics + "\n", encoding="utf-8")
    return other.artist, other.genre


def summarise(out: Path) -> str:
    """Write evaluation.json and index.html; return the tables of the evaluation and of the sound.

    The sound of songs and continuation is compared with songs of the corpus.
    """
    from jukebox.evaluation.figures import sound_figures, sound_table, tables
    from jukebox.evaluation.recogniser import Recogniser
    from jukebox.evaluation.sound import song_table
    from jukebox.model.folder import ModelFolder
    from launch.demo.figures import Corpus, run_rows
    from launch.demo.page import write_page

    figures = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    runs = {title: out / name for title, name in RUNS.items()}
    corpus = Corpus(ModelFolder.from_pretrained(out / "model"), out / "data")
    figures["sound"] = sound_figures(corpus.model, corpus.data, list(runs.values()))
    measured = {title: folder for title, folder in runs.items() if folder.name != "song_levels"}
    figures["songs"] = run_rows(corpus, Recogniser.load(out / RECOGNISER), measured)
    write_json(out / "evaluation.json", figures)
    write_page(out / "index.html", runs, figures["sound"])
    return "\n\n".join([tables(figures), sound_table(figures["sound"]), song_table(figures["songs"])])
