"""The bench of the codec: names of the peer's tensors, ties distinguished from errors, and a table of every case."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox.importers.hf_port import published_codec_name
from jukebox.importers.vqvae_keys import published_vqvae_key
from jukebox.model.settings import VQVAES, vqvae_config
from launch.bench import codec as bench_codec
from launch.bench.bench import bench
from vqvae.jukebox.vqvae import VQVAE


def to_port(published: str) -> str:
    """The port's name of a published tensor, written here from its description and not from the code under test."""
    parts = published.split(".")
    if parts[0] == "bottleneck":
        return published[:-1] + "codebook"
    if parts[2] == "out":
        return published
    side, level, _, stage, _, entry, *rest = parts
    head = f"{side}.{level}.level_blocks.{stage}."
    if len(rest) == 1:
        return head + ("proj_out." if side == "encoders" else "proj_in.") + rest[0]
    up = side == "decoders"
    block = 2 * (int(entry) - up) + int(rest[0])
    inner = f"resnet_block.{rest[2]}.conv1d_{1 if rest[4] == '1' else 2}." if len(rest) > 2 else ""
    return f"{head}{'up' if up else 'down'}sample_block.{block}.{inner}{rest[-1]}"


@pytest.mark.parametrize("name", ["vqvae", "small_vqvae"])
def test_every_tensor_of_the_port_has_its_published_name(name):
    config = vqvae_config(VQVAES[name])
    with torch.device("meta"):
        ours = [n for n in VQVAE(config).state_dict() if not n.endswith((".k_sum", ".k_elem", ".initialised"))]
    published = [published_vqvae_key(n, config.downs_t) for n in ours]
    port = [to_port(n) for n in published]
    assert len(set(port)) == len(port)
    assert [published_codec_name(n, config.downs_t) for n in port] == published


def test_known_names_of_the_port():
    for port, published in (
        ("encoders.0.level_blocks.0.downsample_block.0.weight", "encoders.0.level_blocks.0.model.0.0.weight"),
        ("encoders.2.level_blocks.0.proj_out.bias", "encoders.2.level_blocks.0.model.3.bias"),
        (
            "decoders.1.level_blocks.1.upsample_block.2.resnet_block.3.conv1d_2.bias",
            "decoders.1.level_blocks.1.model.2.0.model.3.model.3.bias",
        ),
        ("decoders.1.level_blocks.1.upsample_block.3.weight", "decoders.1.level_blocks.1.model.2.1.weight"),
        ("decoders.0.out.weight", "decoders.0.out.weight"),
        ("bottleneck.level_blocks.2.codebook", "bottleneck.level_blocks.2.k"),
    ):
        assert published_codec_name(port, (3, 2, 2)) == published


def test_a_tie_is_a_small_gap_and_a_wrong_code_is_not(tmp_path, monkeypatch):
    torch.manual_seed(0)
    codec = VQVAE(vqvae_config({**VQVAES["vqvae"], "width": 4, "depth": 1, "l_bins": 8})).eval()
    book = codec.level(2).codebook
    book.k.copy_(torch.randn_like(book.k))
    book.k[5] = book.k[3] * (1 + 1e-7)
    audio = np.zeros((1, 1, 512), np.float32)
    mine = np.array([3, 3, 3, 3])
    gap = lambda other: bench_codec._largest_gap(codec, audio, 2, mine, other, np.flatnonzero(mine != other))  # noqa: E731
    assert gap(np.array([3, 5, 3, 3])) < 1e-6
    assert gap(np.array([3, 3, 3, 4])) > 1e-3


def test_what_cannot_be_measured_is_told(tmp_path):
    with pytest.raises(UserError, match="--peer got"):
        bench("codec", peer=str(tmp_path / "python"))
    with pytest.raises(UserError, match="--repeats 0"):
        bench("codec", repeats=0)


@pytest.mark.long
def test_the_table_has_a_row_a_case(tmp_path, capsys):
    rows = bench("codec", seconds=0.8, repeats=2, threads=1, out=str(tmp_path / "table.json"))
    assert [row["case"] for row in rows] == ["encode", "decode 0", "decode 1", "decode 2"]
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    for row in rows:
        assert len(row["walls"]) == 2 and row["rate"] > 0 and row["peak_mb"] > 100
        assert sum(row["shares"].values()) == pytest.approx(1) and row["shares"]["convolution"] > 0.2
    assert "where the time goes" in capsys.readouterr().out
