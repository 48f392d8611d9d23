"""The work of the server for each kind of job, by the Python API: check it, plan it, write its request, sample it.

A song (sample, continue, branch) has a run folder with its request before its job is in the queue. `Jukebox.resume` samples it,
also after a kill. An edit writes its request when it begins, and after a kill the same call continues the edit. All errors of
the user are UserErrors of one sentence.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.audio.audio import probe, read
from data_prep.audio.writers import write_audio
from data_prep.errors import UserError
from jukebox.alignment.align import align_run, lyric_entry
from jukebox.api import Callbacks, Jukebox, Progress
from jukebox.device import choose_device
from jukebox.loaded import one_job
from jukebox.params import EditOptions, KeptPrompt, MachineOptions, SamplingOptions
from jukebox.runs import request as requests
from jukebox.runs.params import kinds_of
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.live.live import LiveControls
from launch.serve.folder import Missing, ServedFolder, new_id
from launch.serve.jobs import OVER, ServedJob
from launch.serve.live import LiveSession
from launch.serve.planner import Planner, check_length, check_ranges, words_of
from launch.serve.requests import (
    AlignRequest,
    BranchRequest,
    ContinueRequest,
    EditRequest,
    EditSource,
    ExtendRequest,
    JobRequest,
    Limits,
    LiveRequest,
    ResumeRequest,
    VaryRequest,
    from_json,
)  # fmt: skip

PLANNED = 10.0  # the memory of a live session is planned as for a song of this many seconds


class ModelService:
    """A model, its folder of runs, and the limits of the server."""

    def __init__(self, model: Jukebox, folder: ServedFolder, limits: Limits, machine: MachineOptions) -> None:
        self.model, self.folder, self.limits = model, folder, limits
        self.machine = replace(machine, device=choose_device(machine.device))
        self.planner = Planner(model.info, self.machine)
        self.sessions: dict[str, LiveSession] = {}  # id of a job that is not over -> its session

    def shown(self, sentence: str) -> str:
        """Return a sentence without the paths of this machine."""
        root = str(self.folder.root)
        for path, name in ((f"{root}/", ""), (root, "the served folder"), (str(self.model.folder), "MODEL")):
            sentence = sentence.replace(path, name)
        return sentence

    # ---- jobs

    def begin(self, id: str, asked: JobRequest) -> dict[str, Any]:
        """Check a job, and write the run of a song; return the fields of the job's record except the request."""
        try:
            return self._begun(id, asked)
        except BaseException:
            self._excerpt(id).unlink(missing_ok=True)
            raise

    def _begun(self, id: str, asked: JobRequest) -> dict[str, Any]:
        made = self._checked(id, asked)
        if isinstance(asked, ResumeRequest | AlignRequest):
            run = asked.run
        elif isinstance(asked, LiveRequest):
            return {
                "weights": dict.fromkeys(map(str, made["levels"]), 1.0),
                "seconds_left": asked.seconds,
                "notes": self.planner.notes(asked, self.model.vocabulary),
            }
        elif isinstance(asked, EditSource):
            run = f"{id}.run"
        else:
            run = Run.create(self.folder.root / id, self.model.fitted(made, self._settings(asked))).folder.name
        plan = self.planner.plan(made)
        return {
            "run": run,
            "weights": plan["weights"],
            "seconds_left": plan["seconds"],
            "notes": self.planner.notes(asked, self.model.vocabulary),
        }

    def plan(self, asked: JobRequest) -> dict[str, Any]:
        """Return the predicted memory (bytes) and time (seconds) of a job; UserError if the job is invalid."""
        id = new_id()
        try:
            plan = self.planner.plan(self._checked(id, asked)) | {"notes": self.planner.notes(asked, self.model.vocabulary)}
        finally:
            self._excerpt(id).unlink(missing_ok=True)
        return plan | ({"seconds": asked.seconds} if isinstance(asked, LiveRequest) else {})

    def work(self, job: ServedJob, callbacks: Callbacks) -> None:
        """Run a job, or the unfinished rest of a job."""
        asked = from_json(job.request)
        if isinstance(asked, AlignRequest):
            with one_job():
                align_run(self.model, Run.open(self.folder.run(asked.run)), device=self.machine.device)
        elif isinstance(asked, LiveRequest):
            self._live(job, asked, callbacks)
        elif isinstance(asked, EditSource):
            self._edit(asked, self.folder.root / job.id, callbacks)
        else:
            self.model.resume(self.folder.run(job.run), callbacks)

    def _edit(self, asked: EditSource, out: Path, callbacks: Callbacks) -> None:
        path = self._recording(asked.recording, asked.take)
        options = EditOptions(asked.fade, asked.take if path.is_dir() else 1)
        given: dict[str, Any] = {"song": words_of(asked), "seed": asked.seed, "edit": options}
        given |= {"params": self.planner.typed(asked.params), "machine": self.machine, "out": out, "callbacks": callbacks}
        if isinstance(asked, EditRequest):
            self.model.edit(path, asked.start, asked.end, **given)
        elif isinstance(asked, VaryRequest):
            self.model.vary(path, KeptPrompt(**vars(asked.prompt)), asked.start, asked.end, **given)
        elif isinstance(asked, ExtendRequest):
            self.model.extend(path, asked.before, asked.after, **given)

    def _live(self, job: ServedJob, asked: LiveRequest, callbacks: Callbacks) -> None:
        session, level = self.session(job), int(next(iter(job.weights)))
        total = max(1, round(asked.seconds * session.sample_rate))
        blocks = self.model.live(
            words_of(asked) or Song(), asked.seconds, seed=asked.seed, params=self.planner.typed(asked.params),
            changes=session.changes, machine=self.machine,
        )  # fmt: skip
        try:
            with closing(blocks):  # type: ignore[type-var]
                session.generate(blocks, Progress(level, self.model.spec.names[level], 0, total), callbacks)
        finally:
            self.sessions.pop(job.id, None)

    def session(self, job: ServedJob) -> LiveSession:
        """Return the session of a live job, created on first use; Missing if the job is over or not live."""
        if job.kind != "live" or job.state in OVER:
            self.sessions.pop(job.id, None)
            raise Missing("this is no live session, or it is over")
        if job.id not in self.sessions:
            [values] = self._checked(job.id, from_json(job.request))["params"].values()
            info, route = self.model.info, self.model.info.live_route()
            controls = LiveControls(kinds_of(info, route)[list(route.priors)[-1]], values)
            self.sessions.setdefault(job.id, LiveSession(controls, info.channels, info.sample_rate))
        return self.sessions[job.id]

    # ---- checks

    def _checked(self, id: str, asked: JobRequest) -> dict[str, Any]:
        """Return run.json of a job (approximate for an edit); raise UserError if the job cannot be done."""
        check_ranges(asked, self.limits)
        if isinstance(asked, EditSource):
            return self.planner.edit_request(asked.kind, self._edited_seconds(asked), asked)  # type: ignore[attr-defined]
        if isinstance(asked, ResumeRequest | AlignRequest):
            folder = self.folder.run(asked.run)
            self.folder.check_sources(folder)
            if isinstance(asked, AlignRequest):
                lyric_entry(self.model)
            return self.planner.rest_of(Run.open(folder))
        made = self._song(id, asked)
        check_length(made["seconds"], asked, self.limits)
        return made

    def _edited_seconds(self, asked: EditSource) -> float:
        """Return the seconds of a recording that are resampled; UserError for a range outside of the recording."""
        path = self._recording(asked.recording, asked.take)
        seconds = Run.open(path).request["seconds"] if path.is_dir() else probe(path).seconds
        if isinstance(asked, ExtendRequest):
            made, most = asked.before + asked.after, self.limits.max_seconds - seconds
            if not 0 < made <= most:
                raise UserError(f"{made:g} s more; expected more than 0 and up to {max(0.0, most):.6g} s")
            return made
        assert isinstance(asked, EditRequest | VaryRequest)
        end = seconds if asked.end is None else asked.end
        if not asked.start < end <= seconds:
            raise UserError(f"the range from {asked.start:g} s to {end:g} s; expected one within {seconds:.6g} s")
        return end - asked.start

    # ---- songs

    def _settings(self, asked: Any) -> RunSettings:
        options = SamplingOptions(takes=asked.takes, seed=max(0, asked.seed), route=getattr(asked, "route", ""))
        params = None if isinstance(asked, BranchRequest) else self.planner.typed(asked.params)
        return RunSettings(options, params, self.machine)

    def _song(self, id: str, asked: Any) -> dict[str, Any]:
        info, song = self.model.info, words_of(asked)
        if isinstance(asked, LiveRequest):  # planned as a short song
            options = SamplingOptions(seed=asked.seed, route=info.live_route().name)
            settings = RunSettings(options, self.planner.typed(asked.params), self.machine)
            return requests.sampled(info, [song or Song()], min(asked.seconds, PLANNED), settings)
        settings = self._settings(asked)
        if isinstance(asked, BranchRequest):
            folder, seed = self.folder.run(asked.run), None if asked.seed < 0 else asked.seed
            if self.folder.results(folder):
                return self._branched_edit(asked, song)
            run = Run.open(folder)
            run.request = run.request | {"model": str(info.folder)}
            kept = {"keep_seconds": asked.keep_seconds, "take": asked.take, "seconds": asked.seconds}
            return requests.branched(run, settings, **kept, lyrics=song, seed=seed)
        if isinstance(asked, ContinueRequest):
            prompt = self._prompt(id, asked)
            given = 0.0 if asked.start else asked.prompt_seconds
            return requests.continued(info, [song or Song()], [prompt], given, asked.seconds, settings)
        return requests.sampled(info, [song or Song()], asked.seconds, settings)

    def _branched_edit(self, asked: BranchRequest, words: Song | None) -> dict[str, Any]:
        """Return run.json of a song that continues the output of an edit.

        Artist, genre and lyrics are those of the edit, except if the request has other lyrics.
        """
        take, request = max(1, asked.take), Run.open(self.folder.run(asked.run)).request
        path = self._recording(asked.run, take)
        song = requests.song_of_entry(request["samples"][take - 1], 0.0)
        song = replace(song, lyrics=words.lyrics, word_times=words.word_times) if words else song
        again = replace(asked, seed=request["seed"] + 1 if asked.seed < 0 else asked.seed)
        seconds = asked.seconds or probe(path).seconds
        return requests.continued(self.model.info, [song], [path], asked.keep_seconds, seconds, self._settings(again))

    def _recording(self, name: str, take: int) -> Path:
        """Return an upload, the output file of an edit, or the folder of any other run."""
        try:
            return self.folder.uploads / self.folder.upload(name).file
        except Missing:
            folder = self.folder.run(name)
        if not (results := self.folder.results(folder)):
            return folder
        if not 1 <= take <= len(results) or not results[take - 1].is_file():
            raise UserError(f"{name} has no finished take {take}")
        return results[take - 1]

    def _excerpt(self, id: str) -> Path:
        """Return the file for the excerpt of a recording that a job continues."""
        return self.folder.uploads / f"{id}.wav"

    def _prompt(self, id: str, asked: ContinueRequest) -> Path:
        """Return the recording to continue, or an excerpt of it, which is written if the prompt does not begin at 0."""
        path = self._recording(asked.recording, 1)
        if path.is_dir():
            raise UserError(f"{asked.recording} is a run of this model; branch it")
        if asked.start:
            audio, rate = read(path, start=asked.start, seconds=asked.prompt_seconds or None)
            path = self._excerpt(id)
            if not audio.shape[1]:
                raise UserError(f"the prompt begins at {asked.start:g} s, where the recording has ended")
            write_audio(path, audio, rate, "FLOAT")
        return path
