"""The verb learn: train a model on the user's music, then sample a song and continue a held-out track.

Every stage is a verb, which is printed.

    MUSIC -> prepare -> train spectral -> encode -> train tokens -> evaluate -> sample, continue -> a page

MODEL/learn.json records the plan and the stages that are done. After a kill the same command continues: finished stages are
skipped, and the verb of an unfinished stage resumes. Verbs run in this process, so that a kill leaves no process behind.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError, keeping
from data_prep.files import write_json
from data_prep.manifest import audio_path, load_manifest
from launch.demo.lanes import Clock
from launch.learn import music as music_of

if TYPE_CHECKING:
    from launch.learn.plan import LearnPlan

STATE = "learn.json"
SECONDS, PROMPT = 20.0, 8.0  # seconds of the song and the continuation, and of its prompt
MOST_HOURS = 1000.0
Command = list[str]


def learn(
    music: tuple[str, ...], *, out: str, hours: float = 2.0, preset: str = "", held_out: int = 0, seed: int = 0, threads: int = 0,
    device: str = "auto",
) -> None:  # fmt: skip
    """Train a model on your music, then sample a song and continue a held-out track.

    It prints the plan, then every verb. After a kill or an interruption the same command continues. Data are in OUT_data;
    songs, figures and the page are in OUT_songs.

    music: folders, audio files, or tables (.csv, .tsv, .jsonl) of music; or one data folder that `jukebox prepare` made
    out: model folder to write
    hours: total time, in hours; sizes and steps are chosen for it and the machine
    preset: sizes and recipes (empty: recordings, for less or more time recordings_small or recordings_large; with a GPU
        spectral); recordings_44k has 44.1 kHz and stereo
    held_out: number of held-out songs (0: a tenth, at least 2)
    seed: seed of all random numbers
    threads: CPU threads (0: all)
    device: cpu, cuda, or auto: a GPU if there is one
    """
    if not 0 < hours <= MOST_HOURS or held_out < 0:
        raise UserError(f"--hours {hours:g}, --held_out {held_out}: expected 0 to {MOST_HOURS:,.0f} hours, and 0 or more songs")
    given = {"hours": hours, "preset": preset, "held_out": held_out, "seed": seed}
    given["music"] = [str(Path(each).resolve()) for each in music]
    with keeping(f"{out} keeps all results: the same command goes on", (Path(out) / STATE).is_file):
        Learning(Path(out), given, threads, device).run()


class Learning:
    """One run of the verb: its plan, its folders, and its finished stages."""

    def __init__(self, model: Path, given: Mapping[str, Any], threads: int, device: str) -> None:
        from jukebox.device import choose_device

        self.model, self.given, self.state_file = model, given, model / STATE
        self.songs, self.seed = model.with_name(f"{model.name}_songs"), str(given["seed"])
        self.data = Path(given["music"][0]) if music_of.is_data(given["music"]) else model.with_name(f"{model.name}_data")
        self.threads, self.device = ["--threads", str(threads)] if threads else [], ["--device", choose_device(device)]
        self.state, self.clock = self._read_state(), Clock()

    def _read_state(self) -> dict[str, Any]:
        """Return the record of an earlier run of the same command, or a new record; UserError if the command was different."""
        if not self.state_file.is_file():
            if (self.model / "config.json").is_file():
                raise UserError(f"{self.model} holds a model that `jukebox learn` did not begin; name another --out")
            return {"given": dict(self.given), "done": []}
        state = json.loads(self.state_file.read_text(encoding="utf-8"))
        if changed := [name for name, value in self.given.items() if state["given"].get(name) != value]:
            was = ", ".join(f"{name} {state['given'].get(name)}" for name in changed)
            raise UserError(f"{self.model} was begun with {was}; give the same, or name another --out")
        return state

    def run(self) -> None:
        """Run the unfinished stages."""
        import torch

        if self.threads:
            torch.set_num_threads(int(self.threads[1]))
        plan = self._plan()
        for name, words in self._stages(plan):
            if name not in self.state["done"]:
                self._run_stage(name, words)
        if "page" not in self.state["done"]:
            with self.clock.step("page"):
                self._write_page()
            self._record(done=[*self.state["done"], "page"])
            print("\n" + self.clock.table())
        page = self.songs / "index.html"
        print(
            f"\nto listen, open {page} in a browser; another song: jukebox sample {shlex.quote(str(self.model))} --seconds 30"
        )

    def _plan(self) -> LearnPlan:
        """Return the recorded plan, or make, record and print a new plan and the table of the music."""
        from jukebox.model.presets import find
        from launch.learn.plan import LearnPlan, make_plan, plan_lines, preset_for

        if "plan" in self.state:
            print(f"{self.model}: {', '.join(self.state['done']) or 'no stage'} done; going on")
            return LearnPlan(**self.state["plan"])
        hours, name = self.given["hours"], preset_for(self.given["preset"], self.given["hours"], self.device[1])
        prior = find(name).priors["tokens"]
        window = prior.n_ctx * prior.hop / prior.sample_rate
        music = music_of.gather(self.given["music"], self.data, 3600 * music_of.MOST * hours, self.given["held_out"], window)
        training = [piece.seconds for piece in music.pieces if piece.split != "test"]
        if not any(seconds >= window for seconds in training):
            raise UserError(f"no song for training is as long as a window of the prior, {window:.1f} s; give longer ones")
        print("\n".join(music.notes) or "all songs are used")
        if not (prepared := music_of.is_data(self.given["music"])):
            music_of.write_table(music.pieces, self.data / "songs.jsonl")
        plan = make_plan(name, hours, self.device[1], sum(training))
        self._record(plan=vars(plan))
        print("\n".join(plan_lines(plan, len(music.pieces), sum(piece.seconds for piece in music.pieces), hours, prepared)))
        return plan

    def _record(self, **values: Any) -> None:
        self.model.mkdir(parents=True, exist_ok=True)
        self.state |= values
        write_json(self.state_file, self.state)

    def _stages(self, plan: LearnPlan) -> Iterator[tuple[str, Command]]:
        """Yield the name and the command of every stage, in order; later stages read the results of earlier ones."""
        data, model = str(self.data), str(self.model)
        if not music_of.is_data(self.given["music"]):
            yield "prepare", ["prepare", str(self.data / "songs.jsonl"), "--out", data]
        for what, steps, minutes in (
            ("spectral", plan.codec_steps, plan.codec_minutes), ("tokens", plan.prior_steps, plan.prior_minutes),
        ):  # fmt: skip
            if what == "tokens":
                more = [f"--semitones={','.join(f'{each:g}' for each in plan.semitones)}"] if plan.semitones else []
                yield "encode", ["encode", data, model, "--levels", "tokens", *more, *self.threads, *self.device]
            limits = ["--steps", str(steps), "--max_minutes", f"{minutes:.4g}", "--preset", plan.preset, "--seed", self.seed]
            yield f"train {what}", ["train", what, data, "--out", model, *limits, *self.threads, *self.device]
        figures = str(self.songs / "evaluation.json")
        yield (
            "evaluate",
            ["evaluate", model, data, "--windows", "32", "--songs", "8", "--out", figures, *self.threads, *self.device],
        )
        rows = load_manifest(self.data)
        # A prior with timing knows songs as long as those of its training.
        length = max(SECONDS, median(row.seconds for row in rows))
        words = [*labels(rows), "--seconds", f"{SECONDS:g}", "--total_seconds", f"{length:.0f}"]
        yield "sample", self._resumable("song", ["sample", model, *words])
        track = next((row for row in rows if row.split == "test"), rows[0])
        prompt = ["--prompt_seconds", f"{min(PROMPT, track.seconds / 2):.3g}", "--seconds", f"{SECONDS:g}"]
        prompt += ["--total_seconds", f"{max(SECONDS, track.seconds):.0f}"]
        words = ["continue", model, str(audio_path(self.data, track)), *labels([track]), *prompt]
        yield "continue", self._resumable("continued", words)

    def _resumable(self, name: str, words: Command) -> Command:
        folder = self.songs / name
        if (folder / "run.json").is_file():
            return ["resume", str(folder)]
        return [*words, "--out", str(folder), "--seed", self.seed, *self.device]

    def _run_stage(self, name: str, words: Command) -> None:
        """Run a verb as the user would; an evaluation that fails with a user error, such as too little music, is skipped."""
        from launch.cli.commands import main

        with self.clock.step(name):
            print(f"$ {shlex.join(['jukebox', *words])}", flush=True)
            code = main(words)
        if code and (name != "evaluate" or code != 2):
            raise SystemExit(code)
        if code:
            print("without an evaluation, for the reason above; the other stages continue", flush=True)
        self._record(done=[*self.state["done"], name])

    def _write_page(self) -> None:
        """Write the page with the song, the continuation and real songs, and the table of figures."""
        from jukebox.evaluation.figures import sound_figures, sound_table
        from jukebox.model.folder import ModelFolder
        from launch.demo.page import write_page

        runs = {"Song": self.songs / "song", "Held-out track, continued": self.songs / "continued"}
        figures = sound_figures(ModelFolder.from_pretrained(self.model), self.data, list(runs.values()))
        print(sound_table(figures))
        write_page(self.songs / "index.html", runs, figures, self.model.name)


def labels(rows: Sequence[Any]) -> Command:
    """Return flags for the most frequent artist of these songs and the most frequent genre of this artist."""
    artists = Counter(row.artist for row in rows if row.artist and row.split == "train") or Counter(
        r.artist for r in rows if r.artist
    )
    artist = artists.most_common(1)[0][0] if artists else ""
    genres = Counter(genre for row in rows if (row.artist or "") == artist for genre in row.genres)
    flags = ["--artist", artist] if artist else []
    return flags + (["--genre", genres.most_common(1)[0][0]] if genres else [])
