"""What stands between a song and its tensors: timing bins, filters, text, names, windows of lyrics and of codes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from jukebox.openai_labels import PublishedLabels, clean
from jukebox.schedule import starts
from priors.conditions import LabelConfig, timing_bins
from priors.decode import filter_logits
from priors.lyrics import PUBLISHED, Characters, linear_window
from tests.conformance.golden import Check, Golden, apart


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
    """The first letter of a window, in exact and in float32 arithmetic."""
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
    table = PublishedLabels(
        version, {clean(case["artist"], version): case["y"][3]}, dict(zip(words, given, strict=False))
    )
    genres = table.genre_ids(case["genre"])
    row = [case["total_length"], case["offset"], case["sample_length"], table.artist_id(case["artist"]), *genres]
    row += [-1] * (case["max_genre_words"] - len(genres))
    ids = Characters(PUBLISHED[version]).encode(case["lyrics"]).ids.tolist()
    first = linear_window(len(ids), n, case["total_length"], case["offset"], case["sample_length"])
    return row + [0] * max(0, -first) + ids[max(0, first) : first + n]


def check_schedule(golden: Golden) -> Iterator[Check]:
    """Window starts; the published walk opens no window where the level is shorter than one, ours opens a short one."""
    cases = [case for case in golden.json["starts"] if case["total"] >= case["n_ctx"]]
    wrong = sum(starts(case["total"], case["n_ctx"], case["hop"]) != case["starts"] for case in cases)
    yield Check(f"{len(cases)} lists of window starts, that differ", wrong, 0)
    yield Check(
        "sample_level_trace and split_chunks: not checked, ours primes at once and stops at the length asked for"
    )
