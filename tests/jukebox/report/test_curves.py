"""The page of a training: every logged quantity is plotted at its values, and the page needs no network."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox.report.curves import (
    HEIGHT,
    LEFT,
    WIDTH,
    curves_of,
    explain,
    figure_svg,
    labelled,
    read_parts,
    smooth,
    thin,
    ticks,
    wrapped,
)
from launch.cli import main

PART = "training/prior_2"


def write_log(model: Path, part: str = "prior_2", steps: int = 300, **more: float) -> Path:
    """A log whose bits fall from 8 to 4, and a last line that a kill has cut."""
    folder = model / "training" / part
    folder.mkdir(parents=True)
    lines = [{"step": i + 1, "loss": 8 - 4 * i / steps, "lr": 1e-3, "minutes": i / 60, **more} for i in range(steps)]
    text = "".join(json.dumps(line | {"bits": line["loss"]}) + "\n" for line in lines)
    (folder / "log.jsonl").write_text(text + '{"step": 3', encoding="utf-8")
    return model


def points(svg: str) -> list[np.ndarray]:
    return [np.array([p.split(",") for p in line.split()], float) for line in re.findall(r'points="([^"]*)"', svg)]


def test_a_curve_is_drawn_where_its_numbers_say(tmp_path):
    svg = figure_svg(read_parts(write_log(tmp_path / "model")), only=["bits"])
    ElementTree.fromstring(svg)
    raw, mean = points(svg)
    assert (
        len(raw) == len(mean) <= 120 and (np.diff(raw[:, 0]) >= 0).all() and (np.diff(raw[:, 1]) >= 0).all()
    )  # y grows downwards
    assert LEFT <= raw[0, 0] < LEFT + 5 and WIDTH - 15 < raw[-1, 0] <= WIDTH
    assert raw[0, 1] < 60 and raw[-1, 1] > HEIGHT - 40
    assert "prior_2 4.0" in svg


def test_every_quantity_of_every_part_is_on_a_page_that_stands_alone(tmp_path):
    model = write_log(tmp_path / "model", gradient_norm=1.5, skipped=0)
    write_log(model, "vqvae_1", steps=40, spectral_convergence=0.3)
    examples = model / PART / "examples"
    examples.mkdir()
    for step, sound in (("0000100", b"old"), ("0000200", b"new")):
        (examples / f"step_{step}_sample.wav").write_bytes(sound)
    assert main(["report", "train", str(model)]) == 0
    page = (model / "training.html").read_text(encoding="utf-8")
    for said in (
        "bits per code",
        "norm of the gradient",
        "steps skipped",
        "spectral convergence",
        "prior_2",
        "vqvae_1",
        "The codec",
    ):
        assert said in page, said
    assert "bmV3" in page and "b2xk" not in page  # the newest example alone, inside the page
    assert not re.search(r'(src|href)="(?!data:)', page) and page.index("The codec") < page.index("The priors")


def test_runs_are_drawn_side_by_side_and_parts_alone(tmp_path, capsys):
    one, two = write_log(tmp_path / "one"), write_log(tmp_path / "two", steps=100)
    assert main(["report", "train", str(one), "--beside", str(two), "--only", "bits", "--out", str(tmp_path / "both.svg")]) == 0
    both = (tmp_path / "both.svg").read_text()
    assert ">one 4" in both and ">two 4" in both and len(points(both)) == 4
    assert main(["report", "train", str(one / PART), "--out", str(tmp_path / "part.html")]) == 0
    for words, message in [
        ([str(tmp_path)], "holds no log.jsonl"),
        ([str(one), "--only", "bats"], "no log holds bats; there are bits"),
        ([str(one), "--beside", str(tmp_path / "two" / ".." / "one")], "rename one"),
    ]:
        assert main(["report", "train", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_loss_that_is_the_bits_is_drawn_once_and_one_that_is_not_twice(tmp_path):
    parts = read_parts(write_log(tmp_path / "model"))
    assert list(curves_of(parts)) == ["bits", "lr"]
    other = {"prior_2": [line | {"loss": line["loss"] + 1} for line in parts["prior_2"]]}
    assert list(curves_of(other)) == ["bits", "loss", "lr"]
    with pytest.raises(UserError, match="no log"):
        read_parts(tmp_path)


@pytest.mark.parametrize(
    "low, high, logarithmic", [(0, 8, False), (3.9, 8.1, False), (1e-4, 3.0, True), (0, 2e-3, False), (5, 5 + 1e-9, False)]
)
def test_ticks_are_few_round_and_inside(low, high, logarithmic):
    found = ticks(low, high, logarithmic)
    assert 1 <= len(found) <= 6 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_running_mean_keeps_length_and_level_and_thinning_keeps_the_mean():
    values = np.random.default_rng(0).normal(5, 1, 600)
    assert len(smooth(values)) == 600 and abs(smooth(values).mean() - 5) < 0.1 and smooth(values).std() < 0.4
    steps, thinned = thin((np.arange(600.0), values))
    assert len(steps) == 120 and np.isclose(thinned.mean(), values.mean())


def test_parts_are_told_apart_and_a_long_legend_has_several_lines(tmp_path):
    one, two = write_log(tmp_path / "one"), write_log(tmp_path / "two")
    write_log(two, "prior_1")
    assert list(labelled({"one": one})) == ["prior_2"] and list(labelled({"two": two})) == ["prior_1", "prior_2"]
    assert list(labelled({"one": one, "two": two})) == ["one/prior_2", "two/prior_1", "two/prior_2"]
    assert labelled({"one": one})["prior_2"][0] == one / PART == labelled({"one": one / PART})["prior_2"][0]
    assert wrapped({"a": "a 1", "b": "b 2"}) == [["a", "b"]]
    assert wrapped({"a": "a" * 40, "b": "b" * 60, "c": "c"}) == [["a"], ["b"], ["c"]]


def test_the_song_is_first_and_beside_its_original_and_the_other_parts_are_folded(tmp_path):
    model = write_log(tmp_path / "model", "prior_0")
    write_log(model, "vqvae_0")
    for part, names in (("prior_0", ["step_0000200_sample"]), ("vqvae_0", ["original", "step_0000200_reconstruction"])):
        folder = model / "training" / part / "examples"
        folder.mkdir()
        for name in names:
            (folder / f"{name}.wav").write_bytes(name.encode())
    assert main(["report", "train", str(model)]) == 0
    page = (model / "training.html").read_text(encoding="utf-8")
    places = [
        page.index(text)
        for text in ("<h2>prior_0", "<details><summary>Other parts", "reconstruction, step 200", "original</f", "The codec")
    ]
    assert places == sorted(places) and str(tmp_path) not in page


def test_every_name_on_the_page_is_explained_with_its_unit(tmp_path):
    assert main(["report", "train", str(write_log(tmp_path / "model", gradient_norm=1.5, usage_l1=3, bits_book2=4))]) == 0
    page = (tmp_path / "model" / "training.html").read_text(encoding="utf-8")
    for name in ("bits", "lr", "gradient_norm", "usage_l1", "bits_book2"):
        assert f"<code>{name}</code> {html.escape(explain(name)[1])}" in page and explain(name)[1]
    assert explain("usage_l1")[0] == "codes in use, level 1" and explain("bits_book2")[0] == "bits per code, book 2"
    assert explain("critic_gradient_norm") == ("norm of the gradient, critic", explain("gradient_norm")[1])
    assert explain("some_thing") == ("some thing", "")
