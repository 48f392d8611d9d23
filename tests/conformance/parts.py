"""What stands around the models: timing bins, filters, text, names, windows of lyrics and of codes, schedules of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from jukebox.importers.labels import PublishedLabels, clean
from jukebox.model.recipe import Recipe
from jukebox.runs.windows import prefix_windows, starts
from launch.engines.engine import TorchEngine, lr_at
from priors.conditioning.config import LabelConfig
from priors.conditioning.labels import timing_bins
from priors.conditioning.vocabulary import PUBLISHED, Characters, linear_window
from priors.logits import filter_logits
from tests.conformance.golden import Check, Golden, apart, relative


def check_label_conditioner(golden: Golden) -> Iterator[Check]:
    for name, c in golden.json.items():
        config = LabelConfig(
            1, 1, timing_bins=c["t_bins"], min_seconds=c["min_duration"], max_seconds=c["max_duration"],
            sample_rate=c["sr"],
        )  # fmt: skip
        bins = timing_bins(golden.io[f"in.{name}.y"][:, :3], config, c["n_time"])
        for ours, kind in zip(bins, ("total_length", "absolute_pos", "relative_pos"), strict=True):
            yield Check(f"{name}: bins of {kind}", apart(ours, golden.io[f"out.{name}.{kind}_emb.bins"]), 0)


def check_filters(golden: Golden) -> Iterator[Check]:
    logits = golden.io["in.logits"]
    for name, keep in golden.io.items():
        kind, _, value = name.removeprefix("out.").removesuffix(".keep").rpartition("_")
        if kind in ("top_k", "top_p"):
            filtered = filter_logits(logits, **{kind: int(value) if kind == "top_k" else float(value)})
            expected = logits.masked_fill(~keep, -torch.inf)
            yield Check(f"{kind} {value}: logits that differ", (filtered != expected).sum().item(), 0)


def check_lyric_windows(golden: Golden) -> Iterator[Check]:
    """The first character of a window, in exact and in float32 arithmetic."""
    rows = golden.json["grid"] + golden.json["float32_differs"]
    for published, key in ((False, "first_index"), (True, "first_index_tensor_args")):
        wrong = 0
        for row in rows:
            shape = (row[k] for k in ("n_full", "n_tokens", "total", "offset", "duration"))
            first = linear_window(*shape, published=published)
            padded = row.get("n_pad", 0)
            wrong += max(-first, 0) != padded or (row[key] is not None and max(first, 0) != row[key])
        yield Check(f"{len(rows)} windows, {key}: that differ", wrong, 0)


def check_text(golden: Golden) -> Iterator[Check]:
    for version, table in golden.json["vocab"].items():
        characters = Characters(PUBLISHED[version])
        ours = {symbol: i + 1 for i, symbol in enumerate(characters.symbols)}
        same = characters.size == table["n_vocab"] and ours == {c: i for c, i in table["char_to_id"].items() if i}
        yield Check(f"{version}: vocabulary of {characters.size}", float(not same), 0)
        if find_spec("unidecode") is None:
            yield Check("lyrics: not checked, Unidecode is not installed")
            continue
        wrong, texts = 0, golden.json["lyrics"]
        for case in texts:
            ids = characters.encode(case["text"]).ids
            wrong += ids.tolist() != case[version]["tokens"] or characters.decode(ids) != case[version]["textise"]
        yield Check(f"{version}: {len(texts)} lyrics to ids and back, that differ", wrong, 0)
    for version, names in golden.json["names"].items():
        yield from check_names(version, names)
    wrong = sum(clean(name, "v2") != cleaned for name, cleaned in golden.json["norm"].items())
    yield Check(f"{len(golden.json['norm'])} names cleaned, that differ", wrong, 0)
    rows = golden.json.get("labels", [])
    wrong = sum(label_row(case) != case["y"] for case in rows if find_spec("unidecode"))
    yield Check(f"{len(rows)} label rows, that differ", wrong, 0)


def check_names(version: str, names: dict[str, Any]) -> Iterator[Check]:
    """Look-up of artists and genres, in a table of the golden's own pairs."""
    artists = {clean(a["back"], version): a["id"] for a in names["artists"] if a["id"]}
    genres = {g["back"]: g["ids"][0] for g in names["genres"] if len(g["ids"]) == 1 and g["ids"][0]}
    if version == "v2":  # words that stand in longer genres only
        for g in names["genres"]:
            words = clean(g["name"], version).split("_")
            genres |= {word: i for word, i in zip(words, g["ids"], strict=True) if i}
    id_0 = [name for name in ("", "unknown", "various") if name in names["id0_artist"].split("_")]
    table = PublishedLabels(version, artists | dict.fromkeys(id_0, 0), genres | {names["id0_genre"]: 0})
    wrong = sum((table.artist_id(a["name"]), table.artist(a["id"])) != (a["id"], a["back"]) for a in names["artists"])
    yield Check(f"{version}: {len(names['artists'])} artists to ids and back, that differ", wrong, 0)
    wrong = sum((table.genre_ids(g["name"]), table.genre(g["ids"])) != (g["ids"], g["back"]) for g in names["genres"])
    yield Check(f"{version}: {len(names['genres'])} genres to ids and back, that differ", wrong, 0)


def label_row(case: dict[str, Any]) -> list[int]:
    """A label row as ours; artist and genres through a table of the row's own ids."""
    version, n = "v3" if case["v3"] else "v2", case["n_tokens"]
    words = clean(case["genre"], version).split("_") if version == "v2" else [clean(case["genre"], version)]
    given = case["y"][4 : 4 + case["max_genre_words"]]
    table = PublishedLabels(version, {clean(case["artist"], version): case["y"][3]}, dict(zip(words, given, strict=False)))
    genres = table.genre_ids(case["genre"])
    row = [case["total_length"], case["offset"], case["sample_length"], table.artist_id(case["artist"]), *genres]
    row += [-1] * (case["max_genre_words"] - len(genres))
    ids = Characters(PUBLISHED[version]).encode(case["lyrics"]).ids.tolist()
    first = linear_window(len(ids), n, case["total_length"], case["offset"], case["sample_length"])
    return row + [0] * max(0, -first) + ids[max(0, first) : first + n]


def check_schedule(golden: Golden) -> Iterator[Check]:
    """Window starts, and the walk over a level under the published switch."""
    # the published walk asks for no starts where the level is shorter than a window; ours has the one that begins it
    cases = [case for case in golden.json["starts"] if case["total"] >= case["n_ctx"]]
    wrong = sum(starts(case["total"], case["n_ctx"], case["hop"]) != case["starts"] for case in cases)
    yield Check(f"{len(cases)} lists of window starts, that differ", wrong, 0)
    traces = golden.json["sample_level_trace"]
    yield Check(f"{len(traces)} walks over a level, that differ", sum(map(walked_otherwise, traces)), 0)
    yield Check("split_chunks: skipped, ours hears a prime at once; primes of every length are checked with each prior")


def walked_otherwise(case: dict[str, Any]) -> bool:
    """Whether our windows differ from a recorded walk, or the level is then not made of them."""
    total, n_ctx, known = case["total"], case["n_ctx"], case["pre"]
    ours = list(prefix_windows(total, n_ctx, case["hop"], known, published=True))
    calls = [(c["start"], c["end"], c["prime"], c["sample_tokens"]) for c in case["calls"]]
    short = total < n_ctx  # the number of codes up to which a window is sampled is known only then
    mine = [(w.start, w.start + n_ctx, w.prime, w.end - w.start if short else None) for w in ours]
    level = [0] * known
    for number, window in enumerate(ours, start=1):
        level += [number] * (window.end - window.begin)
    return mine != calls or level != case["final"]


# -------------------- training


def check_optim(golden: Golden) -> Iterator[Check]:
    """Learning-rate curves and averages of the weights; the optimiser itself is another one."""
    for number, case in enumerate(golden.json["lr_curves"]):
        recipe = published_recipe(case)
        error = max(relative(lr_at(step, recipe), rate) for step, rate in enumerate(case["values"]))
        yield Check(f"learning rates of curve {number} (relative)", error, 1e-9)
    runs = {name: run for name, run in golden.json.items() if isinstance(run, dict) and "ema_mu" in run}
    for name, run in runs.items():
        yield Check(f"{name}: average of the weights", averages_apart(golden.io, name, run["ema_mu"]), 1e-6)
    yield Check(f"{', '.join(runs)}: parameter steps skipped, our optimiser is AdamW")


def published_recipe(case: dict[str, Any]) -> Recipe:
    """A published learning-rate schedule as a recipe of ours; their cosine setting is read by nothing."""
    steps, kind = len(case["values"]), {"gamma": case["lr_gamma"], "gamma_every": int(case["lr_decay"])}
    share = 1.0
    if case["linear"]:  # annealed to 0 within lr_decay steps from `start`
        steps, kind = int(case["start"] + case["lr_decay"]), {}
        share = case["start"] / steps
    lr, warmup = case["lr"] * case["lr_scale"], int(case["lr_warmup"])
    return Recipe(steps, batch=1, lr=lr, warmup=warmup, schedule="published", decay_from=share, **kind)


def averages_apart(io: Mapping[str, Tensor], name: str, mu: float) -> float:
    """How far our averages are from the recorded ones, the weights taking the recorded steps."""
    model = torch.nn.Module()
    model.p = torch.nn.Parameter(io[f"in.{name}.p0"].clone())
    recipe = Recipe(len(io[f"out.{name}.p"]), batch=1, lr=1.0, schedule="published", ema=mu)
    engine, worst = TorchEngine(model, recipe, torch.device("cpu")), 0.0
    for step, (p, expected) in enumerate(zip(io[f"out.{name}.p"], io[f"out.{name}.ema"], strict=True)):
        model.p.data.copy_(p)
        engine.turns[""] = step
        engine.follow()
        worst = max(worst, apart(engine.average["p"], expected))
    return worst
