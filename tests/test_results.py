"""Tables of figures on the pages agree with the files that commands wrote; tables without a file are listed on the summary page.

A new table of figures is a line of `TABLES`, or of the section "Tables without a data file" of docs/results/index.md.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.prose import FENCE, hand_written

DOCS = Path(__file__).parents[1] / "docs"
NUMBER = re.compile(r"(?<![\w.])(-?\d*\.?\d+)(?: ± (\d*\.?\d+))?")
AIM = re.compile(r"\(aim [^)]*\)")
Values = dict[str, tuple[float, float]]  # "row.figure" -> mean, and standard deviation or error (nan: none)


def of_csv(file: str, row: str, **where: str) -> Values:
    """Figures over all lines of a file of docs/evidence with the same name (in the column `row`) and figure."""
    values: dict[str, list[float]] = defaultdict(list)
    with (DOCS / "evidence" / file).open(newline="") as lines:
        for line in csv.DictReader(lines):
            if line["value"] and where.items() <= line.items():
                values[f"{line[row]}.{line['figure']}"].append(float(line["value"]))
    return {key: (statistics.mean(x), statistics.stdev(x) if len(x) > 1 else 0.0) for key, x in values.items()}


def of_card(file: Path) -> Values:
    """The table in the card of a model."""
    block = FENCE.search(file.read_text("utf-8"))[0].splitlines()[1:-1]  # type: ignore[index]
    header, _, *rows = (re.split(r"\s{2,}", line.strip()) for line in block)
    cells = {f"{row[0]}.{figure}": cell.partition(" +-") for row in rows for figure, cell in zip(header[1:], row[1:])}
    return {key: (float(mean), float(error or "nan")) for key, (mean, _, error) in cells.items() if mean != "-"}


def of_rows(file: str) -> Values:
    """The rows of an experiment: mean and deviation over seeds."""
    rows = json.loads((DOCS / "evidence" / file).read_text("utf-8"))["rows"]
    return {f"{row['what']}.mean": (row["mean"], math.nan if row["spread"] is None else row["spread"]) for row in rows}


def of_models(file: str) -> Values:
    """The rows "table: model: figure" of an experiment."""
    rows = (
        key.removesuffix(".mean").split(": ") + [figure] for key, figure in of_rows(file).items() if key.startswith("table: ")
    )
    return {f"{model}.{name}": figure for _, model, name, figure in rows}


def of_list(file: str, row: str = "") -> Values:
    """A list of rows, or an object with "rows": `row` names them ("": one row, "all"). `x_se` is the error of `x`."""
    found = json.loads((DOCS / "evidence" / file).read_text("utf-8"))
    return {
        f"{each[row] if row else 'all'}.{name}": (value, each.get(f"{name}_se") or math.nan if f"{name}_se" in each else math.nan)
        for each in (found["rows"] if isinstance(found, dict) else found)
        for name, value in each.items() if isinstance(value, (int, float))
    }  # fmt: skip


def of_session(file: str) -> Values:
    """Figures of a live session with changes, and those of the same seed without."""
    found = json.loads((DOCS / "evidence" / file).read_text("utf-8"))
    pairs = {name: (value, found.get(f"{name}_se", math.nan)) for name, value in found.items() if name != "changes"}
    return {
        f"{name.removeprefix('control_')}.{'without' if name.startswith('control_') else 'with'}": x
        for name, x in pairs.items()
    }


def of_claims(file: str) -> Values:
    """The claims about several models, and the steps of their training."""
    found = json.loads((DOCS / "evidence" / file).read_text("utf-8"))
    figures = {  # " / " is a ratio here
        f"{each['claim'].replace(' / ', ' over ')}.{model}": value
        for each in found["claims"] for model, value in each["models"].items()
    }  # fmt: skip
    for model, parts in found["models"].items():
        figures |= {f"steps, {part}.{model}": trained["steps"] for part, trained in parts["training"].items()}
    return {key: (value, math.nan) for key, value in figures.items() if value is not None}


def of_arms(file: str, key: str) -> Values:
    """The arms of an experiment, and its comparisons in the row of their text."""
    found = json.loads((DOCS / "evidence" / file).read_text("utf-8"))
    figures = {f"{arm[key]}.{name}": x for arm in found["rows"] for name, x in arm.items() if isinstance(x, dict)}
    figures |= {f"{each['what'].replace(' / ', ' over ')}.mean": each for each in found["worth"]}  # " / " is a ratio here
    return {name: (x["mean"], math.nan if x["spread"] is None else x["spread"]) for name, x in figures.items()}


FILES = {
    "seeds": of_csv("evidence.csv", "sound"),  # `make evidence`
    "card": of_card(DOCS.parent / "jukebox" / "assets" / "demo" / "card.md"),  # `make model`
    # `make evidence-recordings`
    "codec": of_csv("recordings.csv", "row", model="main", part="codec"),
    "continuations": of_csv("recordings.csv", "row", model="main", part="continuations"),
    "claims": of_claims("recordings.json"),
    "musika": of_rows("musika.json"),  # `make evidence-musika`
    "session": of_session("musika_session.json"),
    "live": of_list("live_bench.json", "size"),
    "songs": of_list("musika_songs.json", "what"),
    "wavenet": of_rows("wavenet.json"),  # `make evidence-wavenet`
    "five models": of_models("wavenet.json"),
    "melody": of_rows("melody.json"),  # `make evidence-melody`
    "render": of_list("melody_bench.json", "arm"),
    "compare": of_list("melody_compare.json", "renderer"),
    "bench wavenet": of_list("wavenet_bench.json", "depth"),
    "bottleneck": of_arms("bottleneck.json", "variant"),
}
VALUES = {f"{file}: {key}": figure for file, figures in FILES.items() for key, figure in figures.items()}
# title of a column -> figures of its cells, where {} is "file: row"; empty: none
COLUMNS = {
    **{name: f"{{}}.{name}" for name in ("artist", "vowels", "tempo", "progression", "peakiness", "vibrato")},
    **{"Frechet": "{}.frechet", "mel, dB": "{}.mel_db", "rise, ms": "{}.rise_ms", "moving pitch": "{}.moving_pitch"},
    **{"chroma correlation": "{}.chroma", "timbre distance, dB": "{}.timbre_db", "tempo kept": "{}.tempo_kept"},
    **{
        "error 2-5 kHz": "{}.error 2-5 kHz",
        "error above 5 kHz": "{}.error above 5 kHz",
        "error below .5 kHz": "{}.error below .5 kHz",
        "error .5-2 kHz": "{}.error .5-2 kHz",
        "numbers/s": "{}.numbers per second",
    },
    **{"mel distance, dB": "{}.mel distance, dB", "receptive field, s": "{}.receptive field, s", "steps": "{}.steps"},
    **{"music s/s": "{}.seconds of music per second", "aim": ""},
    **{"perplexity of 256": "{}.perplexity", "own codes, bits": "{}.bits.own", "other codes, bits": "{}.bits.other"},
    **{"ratio": "{}.bits.ratio", "receptive field": "{}.receptive_field", "undilated": "{}.undilated_receptive_field"},
    **{"naive, samples/s": "{}.naive_samples_per_second", "cached": "{}.cached_samples_per_second"},
    **{"compiled": "{}.compiled_samples_per_second", "cached / naive": "{}.cached_over_naive"},
    **{
        "compiled / cached": "{}.compiled_over_cached",
        "passes": "{}.passes",
        "mel from it, dB": "{}.mel",
        "mel to the song, dB": "{}.mel",
    },
    **{"fewer passes": "{}.fewer_passes", "seconds": "{}.seconds", "faster": "{}.faster"},
    **{"music per second": "{}.music_seconds_per_second"},
    **{"music per second, 30 s": "{}.short", "music per second, 240 s": "{}.long", "240 s over 30 s": "{}.time_ratio"},
    **{"longest wait, s": "{}.longest_wait", "memory, ten minutes over one": "{}.memory_ratio"},
    **{"three levels": "{}.levels_music_seconds_per_second", "times faster": "{}.times_faster"},
    **{"with changes": "{}.with", "same seed without": "{}.without", "genre": "{}.genre"},
    **{"onsets/s": "{}.onsets", "chroma change": "{}.chroma_change"},
    **{name: f"{{}}.{name}" for name in ("main", "half", "quarter")},
    **{"figure": "{}", "measured": "{}", "met": "", "command": "", "machine": "", "date": ""},
}


class Table(NamedTuple):
    """A table of the pages and where its figures are.

    page, heading: its section
    has: title of a column that no other table of the section has
    rows: how many of its rows have figures in the file
    file: key of FILES
    names: title of a row -> its name in the file, if another; in tables of claims: the figures of the numbers in its cell
    """

    page: str
    heading: str
    has: str
    rows: int
    file: str
    names: Mapping[str, str] = {}


SPECTRAL, SUMMARY, ROUTES = "docs/results/spectral.md", "docs/results/index.md", "docs/results/routes.md"
TABLES = (
    Table(SPECTRAL, "Three seeds", "Frechet", 13, "seeds", {
        "held-out songs (8)": "held-out songs",
        "60 s, last 20 s": "minute, last part",
        "180 s, last 20 s (one seed)": "longest, last part",
        "another song's labels": "another's labels",
    }),
    Table(SPECTRAL, "The model of the package", "Frechet", 5, "card", {"held-out songs (8)": "held-out songs"}),
    Table(SPECTRAL, "The model of the package", "measured", 4, "", {
        "mel distance at most 1.5 dB": "card: reconstructed.mel_db",
        "vowels at least .9 of true songs'": "card: generated.vowels",
        "moving pitch within 25 %": "card: generated.moving_pitch; card: true songs of the requests.moving_pitch",
        "attacks within 25 %":
            "card: reconstructed.rise_ms; card: held-out songs.rise_ms; "
            "card: generated.attack_ms; card: true songs of the requests.attack_ms; "
            "card: generated.attack_ms / card: true songs of the requests.attack_ms",
    }),
    Table(SPECTRAL, "Recordings", "mel, dB", 5, "codec", {
        "level 0 of three": "decoded from vq.0", "level 2 of three": "decoded from vq.2",
    }),
    Table(SPECTRAL, "Recordings", "tempo kept", 4, "continuations", {"the same, beside another prompt": "beside another prompt"}),
    Table(SPECTRAL, "Recordings", "half", 9, "claims", {
        "steps of the codec": "steps, spectral",
        "steps of the prior": "steps, tokens",
        "codec: Frechet / held-out": "codec: Frechet distance over held-out tracks'",
        "codec: mel, dB": "codec: mel distance, dB",
        "codec: peakiness / true": "codec: peakiness over true",
        "prior: bits / unigram": "prior: bits per frame over unigram",
        "prior: z of other labels": "prior: another artist and genre, z by song",
        "chroma with the prompt": "continuations: chroma correlation with the prompt",
        "tempo kept / true": "continuations: tempo kept over by true ones",
    }),
    Table(ROUTES, "Latent GAN", "measured", 12, "", {
        "Both decoders keep the spectrum: distance of log magnitudes, over that of the mean frame":
            "musika: own: log magnitudes: ratio.mean",
        "Phases are learned: multi-scale distance, over the better of phase 0 and random phases":
            "musika: own: multi-scale distance: ratio.mean",
        "The GAN learns: Frechet distance of windows, over that of the untrained generator":
            "musika: own: Frechet distance of windows: ratio.mean",
        "No collapse: deviation of latents, over the true one": "musika: own: deviation of latents: ratio.mean",
        "Patches fit: jumps between patches over jumps inside": "musika: own: jumps between patches over inside: own.mean",
        "Control: the same patches in another order, over the line above":
            "musika: own: jumps between patches over inside: ratio.mean",
        "The same of true windows, and with a half of another window":
            "musika: own: jumps between patches over inside: true.mean; "
            "musika: own: jumps between patches over inside: true unrelated.mean",
        "Style stays: variance between patches of one style, over a style for each patch":
            "musika: own: variance between patches, styles: ratio.mean",
        "Note density follows its control: rank correlation": "musika: own: asked and found: density correlation.mean",
        "Density with controls of other songs": "musika: shuffled: asked and found: density correlation.mean",
        "Tempo follows its control: octaves between requested and measured tempo":
            "musika: own: asked and found: tempo octaves.mean",
        "Tempo with controls of other songs": "musika: shuffled: asked and found: tempo octaves.mean",
    }),
    Table(ROUTES, "Latent GAN", "with changes", 3, "session", {
        "underruns in 600 s": "underruns",
        "rise of onsets per second, density 2.5 to 4.5 and back": "density_rise",
        "octaves between requested and measured tempo": "tempo_octaves",
    }),
    Table(ROUTES, "Latent GAN: speed", "times faster", 3, "live"),
    Table(ROUTES, "Latent GAN", "onsets/s", 3, "songs", {"songs of the latent GAN": "song"}),
    Table(ROUTES, "WaveNet, NSynth and argmax", "measured", 12, "", {
        "W4: bits of codes that repeat after 193 samples, receptive field 256, over receptive field 31 with as many parameters":
            "wavenet: W4, period 193 of 16 symbols: bits, receptive field ratio.mean",
        "The same of 256 codes that repeat after 200 samples": "wavenet: W4, period 200 of 256 symbols: bits, receptive field ratio.mean",
        "W5: bits of notes, over the entropy of their codes": "wavenet: W5: bits: ratio.mean",
        "W5: continuations that keep the pitch within 3 %; pitches of other notes":
            "wavenet: W5: pitch of continuations: kept.mean; wavenet: W5: pitch of continuations: of other notes.mean",
        "W5: notes sampled from a label that have its timbre": "wavenet: W5: timbre of notes from a label.mean",
        "A motif keeps its pitch in the first 50 ms after the prompt": "wavenet: thread: pitch in the first 50 ms: made.mean",
        "The same after the length of a note; the true continuation; another piece":
            "; ".join(f"wavenet: thread: pitch after a note's length: {name}.mean" for name in ("made", "true", "of another piece")),
        "N1: bits of a note with its own latents, over those of another note": "wavenet: NSynth, notes: N1, bits, latents ratio.mean",
        "N2: morph of two timbres: rank correlation of centroid and alpha; alpha in another order":
            "wavenet: NSynth, notes: N2, centroid correlation.mean; wavenet: NSynth, notes: N2, other order.mean",
        "N2: steps of morphs that keep the pitch within 3 %": "wavenet: NSynth, notes: N2, pitch kept.mean",
        "N3: notes of twice the length that keep the pitch; at half the speed":
            "wavenet: NSynth, notes: N3, pitch kept.mean; wavenet: NSynth, notes: N3, pitch of half speed.mean",
        "N4: reconstructed notes that keep the pitch; spectral autoencoder; other notes":
            "; ".join(f"wavenet: NSynth, notes: N4, pitch kept, {name}.mean" for name in ("nsynth", "spectral", "of other notes")),
    }),
    Table(ROUTES, "Latent diffusion", "measured", 12, "", {
        "M4: windows nearest to the song of their tokens, 5 steps; with other tokens; by chance":
            "; ".join(f"melody: multi-chunk: nearest to the song of their tokens: {name}.mean" for name in ("own", "other", "chance")),
        "M4: the same with guidance 2.5; with other tokens":
            "; ".join(f"melody: multi-chunk: nearest to the song of their tokens: guided {name}.mean" for name in ("own", "other")),
        "M5: Frechet distance of the linear schedule over the uniform one, 2 steps":
            "melody: multi-chunk: Frechet distance of windows: ratio 2.mean",
        "The same, 5 steps": "melody: multi-chunk: Frechet distance of windows: ratio 5.mean",
        "The same, 10 steps": "melody: multi-chunk: Frechet distance of windows: ratio 10.mean",
        "The same, 20 steps": "melody: multi-chunk: Frechet distance of windows: ratio 20.mean",
        "Five steps are usable: Frechet distance of 5 steps over that of 20":
            "melody: multi-chunk: Frechet distance of windows: five to twenty.mean",
        "M5b: deviation of latents over the true one, 5 steps; 10 steps":
            "melody: multi-chunk: deviation of latents: linear 5.mean; melody: multi-chunk: deviation of latents: linear 10.mean",
        "M6: Frechet distance of the last of eight chunks over that of the first":
            "melody: multi-chunk: continuation by chunks: ratio.mean",
        "M6: jumps between chunks over jumps inside; of true latents":
            "melody: multi-chunk: continuation by chunks: jumps.mean; melody: multi-chunk: continuation by chunks: true jumps.mean",
        "M7: mel distance of reconstructions over that of silence; with latents of another song":
            "melody: multi-chunk: mel distance of reconstructions: ratio.mean; "
            "melody: multi-chunk: mel distance of reconstructions: other ratio.mean",
        "M8: last chunk, trained with one angle over trained with chunks": "melody: last chunk, one angle over multi-chunk.mean",
    }),
    Table(ROUTES, "Latent diffusion", "passes", 6, "compare"),
    Table(ROUTES, "Which route for what", "passes", 8, "render"),
    Table("docs/wavenet.md", "Measured", "cached", 3, "bench wavenet", {"8 x 64": "8", "20 x 64": "20", "30 x 128": "30"}),
    Table(ROUTES, "The bottleneck", "perplexity of 256", 4, "bottleneck", {"argmax without diversity loss": "argmax without diversity"}),
    Table(ROUTES, "The bottleneck", "measured", 4, "", {
        "A2: perplexity with diversity loss over that without": "bottleneck: A2: perplexity, with over without diversity.mean",
        "A2: perplexity of argmax over that of a codebook without restarts":
            "bottleneck: A2: perplexity, argmax over codebook without restarts.mean",
        "A3: bits with own codes over those with other codes": "bottleneck: A3: bits, own over other codes.mean",
        "mel distance of argmax minus that of the codebook, dB": "bottleneck: mel, dB less than the codebook.mean",
    }),
    Table(ROUTES, "WaveNet, NSynth and argmax", "numbers/s", 5, "five models", {
        "VQ-VAE, level 2": "vqvae", "argmax bottleneck": "argmax", "WaveNet of the codes of level 2": "WaveNet of vq.2",
        "spectral latents": "spectral",
    }),
    Table(SUMMARY, "Results", "figure", 15, "", {
        "A latent GAN learns in minutes, and plays live":
            "musika: own: Frechet distance of windows: ratio.mean; session: underruns.with",
        "Its songs are music with a beat":
            "songs: song.frechet; songs: held-out songs.frechet; songs: noise of the same spectrum.frechet; songs: song.tempo",
        "Few steps of diffusion suffice": "melody: multi-chunk: Frechet distance of windows: five to twenty.mean",
        "Latents follow their tokens":
            "; ".join(f"melody: multi-chunk: nearest to the song of their tokens: guided {name}.mean" for name in ("own", "other")),
        "A WaveNet uses its receptive field, then loses the thread":
            "wavenet: W4, period 193 of 16 symbols: bits, receptive field ratio.mean; "
            "wavenet: thread: pitch in the first 50 ms: made.mean; wavenet: thread: pitch after a note's length: made.mean",
        "Latents of NSynth carry the note": "wavenet: NSynth, notes: N1, bits, latents ratio.mean",
        "The argmax bottleneck does not collapse":
            "bottleneck: A2: perplexity, with over without diversity.mean; bottleneck: A3: bits, own over other codes.mean",
        "The model of the package sings requested words":
            "card: generated.frechet; card: true songs of the requests.frechet; card: generated.vowels; "
            "card: generated.progression; card: true songs of the requests.progression",
        "Its attacks are as sharp": "card: generated.attack_ms / card: true songs of the requests.attack_ms",
        "Generated songs sing their lyrics": "seeds: generated.vowels; seeds: another song's lyrics.vowels",
        "They follow artist, genre and tempo":
            "seeds: generated.artist; seeds: generated.genre; seeds: generated.tempo; "
            "seeds: untrained prior.artist; seeds: untrained prior.genre; seeds: untrained prior.tempo",
        "They are not copies": "seeds: generated.shared_s",
        "Chord progressions return": "seeds: generated.progression; seeds: held-out songs.progression",
        "Recordings: the codec keeps their sound":
            "codec: decoded from tokens.frechet; codec: held-out tracks.frechet; codec: noise of the same spectrum.frechet; "
            "codec: decoded from tokens.mel_db",
        "Continued recordings keep key and tempo":
            "continuations: new parts.chroma; continuations: true continuations.chroma; "
            "continuations: new parts.tempo_kept; continuations: true continuations.tempo_kept",
    }),
)  # fmt: skip
# sections whose tables of numbers are no results
NO_RESULTS = {
    ("docs/gpu.md", "GPU check"),  # limits of time
    ("docs/openai.md", "The published models"),  # sizes
    ("docs/spectral.md", "The codec"),  # settings
    ("docs/training.md", "How long, and on what"),  # predictions of `jukebox plan train`
}


class Found(NamedTuple):
    """A table as it stands on a page, without bold."""

    page: str
    heading: str
    header: list[str]
    rows: list[list[str]]

    @property
    def has_figures(self) -> bool:
        """Whether most cells of a column after the first begin with a number."""
        columns = [[cell for cell in column if cell] for column in list(zip(*self.rows))[1:]]
        return any(sum(bool(re.match(r"[-+]?\.?\d", cell)) for cell in column) > len(column) / 2 for column in columns)

    @property
    def link(self) -> Path:
        """The page and the anchor of the section."""
        return DOCS.parent / f"{self.page}#{re.sub(r'[^a-z0-9 -]', '', self.heading.lower()).replace(' ', '-')}"


class Cell(NamedTuple):
    """A cell of a table, without its aim, and the references of its numbers."""

    row: str
    column: str
    text: str
    references: list[str]


def value(reference: str) -> tuple[float, float]:
    """Mean and deviation of "file: row.figure", or the ratio of two means (" / " between them); nan if a file has none."""
    (mean, deviation), *divisor = (VALUES.get(name, (math.nan, math.nan)) for name in reference.split(" / "))
    return (mean / divisor[0][0], math.nan) if divisor else (mean, deviation)


def agrees(text: str, references: list[str]) -> bool:
    """Whether the numbers in a text are those of the references, rounded to their digits."""
    shown = NUMBER.findall(text)
    pairs = [(x, y) for numbers, reference in zip(shown, references) for x, y in zip(numbers, value(reference)) if x]
    near = [abs(float(x) - y) <= 0.5 * 10.0 ** -len(x.partition(".")[2]) + 1e-9 for x, y in pairs]
    return 0 < len(shown) == len(references) and all(near)


def tables(page: Path) -> Iterator[Found]:
    """The tables of a page, in order."""
    text, heading = FENCE.sub("", page.read_text("utf-8")).replace("**", ""), ""
    for match in re.finditer(r"^#+ (.*)\n|(?:^\|.*\|\n)+", text, re.MULTILINE):
        heading = match[1] or heading
        if not match[1]:
            header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in match[0].splitlines())
            yield Found(page.relative_to(DOCS.parent).as_posix(), heading, header, rows)


ALL = [found for page in hand_written() for found in tables(page)]


def is_of(table: Table, found: Found) -> bool:
    return (found.page, found.heading) == table[:2] and table.has in found.header


def cells(table: Table) -> list[Cell]:
    """The cells of the rows that the file of a table has."""
    (found,) = (each for each in ALL if is_of(table, each))
    names = {key.rpartition(".")[0]: f"{table.file}: {key.rpartition('.')[0]}" for key in FILES.get(table.file, {})}
    names |= {title: f"{table.file}: {name}" if table.file else name for title, name in table.names.items()}
    return [
        Cell(title, column, AIM.sub("", text), COLUMNS[column].format(names[title]).split("; "))
        for title, *row in found.rows if title in names
        for column, text in zip(found.header[1:], row) if text and COLUMNS[column]
    ]  # fmt: skip


def name(table: Table) -> str:
    return f"{table.heading}, {table.has}"


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_a_table_has_the_figures_of_its_file(table):
    found = cells(table)
    assert [cell for cell in found if not agrees(cell.text, cell.references)] == []
    assert len({cell.row for cell in found}) == table.rows


@pytest.mark.parametrize("table", TABLES, ids=name)
def test_a_changed_number_of_a_table_is_found(table):
    for _, _, text, references in cells(table):
        for digit in re.finditer(r"\d(?!\.?\d)", text):  # the last one of each number
            changed = text[: digit.start()] + str((int(digit[0]) + 1) % 10) + text[digit.end() :]
            assert not agrees(changed, references), changed


def test_every_table_of_figures_has_a_file_or_is_listed():
    (listed,) = (each for each in ALL if each.heading == "Tables without a data file")
    links = {(DOCS / "results" / link).resolve() for row in listed.rows for link in re.findall(r"\]\(([^()]+)\)", row[-1])}
    figures = [each for each in ALL if each.has_figures and each[:2] not in NO_RESULTS]
    without = [each for each in figures if not any(is_of(table, each) for table in TABLES)]
    assert [each[:3] for each in without if each.link not in links] == []
    assert links <= {each.link for each in figures}
