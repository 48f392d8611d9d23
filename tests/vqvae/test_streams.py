"""Streams and what describes a codec: frames, checks, the shortest whole length, and hashes of what decides the codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jukebox.model.folder import ModelFolder
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE
from vqvae.streams import CodecSpec, Stream, hash_tensors

CODES = Stream("vq.0", 8, bins=16, rng_key=0)
BOOKS = Stream("tokens", 256, books=4, bins=1024)
LATENT = Stream("latent", 512, width=64, dtype="float16")


def test_a_frame_is_a_code_a_row_of_books_or_a_vector():
    assert [stream.frame_shape for stream in (CODES, BOOKS, LATENT)] == [(), (4,), (64,)]
    for stream in (CODES, BOOKS, LATENT):
        frames = stream.check(np.ones((3, *stream.frame_shape), np.int64), "a file")
        assert frames.shape == (3, *stream.frame_shape) and frames.dtype == stream.dtype


@pytest.mark.parametrize(
    ("stream", "values", "words"),
    [
        (CODES, np.zeros((3, 4), np.int64), r"a file: vq.0 of shape \(3, 4\); expected \(frames\)"),
        (BOOKS, np.zeros(3, np.int64), r"tokens of shape \(3,\); expected \(frames, 4\)"),
        (LATENT, np.zeros((3, 65), np.float32), r"latent of shape \(3, 65\); expected \(frames, 64\)"),
        (CODES, np.zeros(3, np.float32), "vq.0 of float32; expected integers"),
        (CODES, np.array([-1, 2]), "codes of vq.0 must be integers from 0 to 65535"),
        (CODES, np.array([2, 65536]), "codes of vq.0 must be integers from 0 to 65535"),
    ],
)
def test_values_that_are_no_frames_of_a_stream_are_named(stream, values, words):
    with pytest.raises(ValueError, match=words):
        stream.check(values, "a file")


def test_levels_keep_their_numbers_in_seeds_and_other_streams_have_their_names():
    assert (CODES.key, CODES.seed_key) == (0, 0)
    assert BOOKS.key == "tokens" and BOOKS.seed_key != LATENT.seed_key
    assert [stream.key for stream in VQVAEConfig().spec.streams] == [0, 1, 2]


def test_the_unit_is_the_shortest_length_at_which_all_streams_have_whole_frames():
    assert VQVAEConfig().spec.unit == VQVAEConfig().hops[-1] == 128
    spec = CodecSpec(24000, 2, (Stream("a", 300, bins=4), Stream("b", 320, bins=4)))
    assert spec.unit == 4800 and spec.hops == (300, 320) and spec.names == ("a", "b")
    with pytest.raises(ValueError, match="there is no stream 'c'; this codec has a, b"):
        spec.stream("c")


def test_a_hash_depends_on_names_and_values_and_not_on_order():
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(True), "c": np.zeros(0, np.float32)}
    known = hash_tensors(tensors.items())
    assert known == hash_tensors(reversed(tensors.items())) and len(known) == 12
    others = [
        {**tensors, "a": tensors["a"] + 1e-12},
        {**tensors, "a": tensors["a"].reshape(3, 2)},
        {**tensors, "a": tensors["a"].astype(np.float32)},
        {"A" if name == "a" else name: values for name, values in tensors.items()},
        {name: tensors[name] for name in ("a", "b")},
    ]
    assert len({known, *(hash_tensors(other.items()) for other in others)}) == len(others) + 1
    assert hash_tensors(iter(())) == ""


def changed(codec: VQVAE, name: str) -> VQVAE:
    """The codec with one number of one tensor changed."""
    other, state = VQVAE(codec.config), {key: value.clone() for key, value in codec.state_dict().items()}
    state[name].view(-1)[0] += 1
    other.load_state_dict(state)
    return other


def test_the_hash_of_codes_is_that_of_encoder_and_codebook(small):
    codec = VQVAE(small)
    known = {stream: codec.codes_hash(stream) for stream in small.spec.names}
    assert len(set(known.values())) == 2
    for kept in ("decoder.out.weight", "codebook.k_sum", "codebook.k_elem"):
        other = changed(codec, f"levels.0.{kept}")
        assert {stream: other.codes_hash(stream) for stream in known} == known, kept
    for part in ("encoder.stages.0.out.weight", "codebook.k"):
        other = changed(codec, f"levels.0.{part}")
        assert other.codes_hash("vq.0") != known["vq.0"] and other.codes_hash("vq.1") == known["vq.1"], part


def test_a_saved_model_has_the_hashes_of_its_codec(small, tmp_path: Path):
    codec = VQVAE(small)
    model = ModelFolder.create(tmp_path, small)
    assert [model.info.codes_hash(stream) for stream in small.spec.names] == ["", ""]
    model.save_codec(codec)
    with torch.no_grad():
        codec.level(0).codebook.k += 1
    top = VQVAE(small, ["vq.1"])
    model.save_codec(top)  # replaces one stream and keeps the other
    info = ModelFolder.from_pretrained(tmp_path).info
    read = model.codec()
    assert [info.codes_hash(stream) for stream in small.spec.names] == [read.codes_hash(stream) for stream in small.spec.names]
    assert info.codes_hash("vq.1") == top.codes_hash("vq.1")
    assert info.codes_hash("vq.0") != codec.codes_hash("vq.0")  # the control: the codebook changed after it was saved
