"""Where the codes of a model lie in a data directory, by what decides their values, and in folders of version 1."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from data_prep.codes import CodesWriter
from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.model.codes import codes_folder, folders_with, open_codes
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find


@pytest.fixture
def model(tiny_model: Jukebox, tmp_path: Path) -> ModelInfo:
    shutil.copytree(tiny_model.folder, tmp_path / "model")
    return ModelInfo.read(tmp_path / "model")


def change(info: ModelInfo, chosen: Callable[[str], bool]) -> None:
    """Add to the chosen tensors of a model's codec."""
    opened = Jukebox(info)
    codec = opened.codec()
    tensors: dict[str, Tensor] = {name: x for name, x in codec.state_dict().items() if chosen(name)}
    assert tensors
    for values in tensors.values():
        values.add_(1)
    opened.save_codec(codec)


def write(folder: Path, stream: str, **songs: int) -> None:
    with CodesWriter(folder, [stream]) as writer:
        for song, number in songs.items():
            writer.add(song, {stream: np.full(9, number, np.uint16)})


def test_a_folder_is_named_by_encoder_and_codebook_of_its_stream_alone(model, tmp_path):
    def folders() -> list[str]:
        return [codes_folder(tmp_path, model, stream).name for stream in model.spec.names]

    first = folders()
    assert len({*first, model.old_codes_hash("vq.0")}) == 4
    assert codes_folder(tmp_path, model, "vq.0") == tmp_path / "codes" / first[0]
    change(model, lambda name: "decoder" in name or name.endswith(("k_sum", "k_elem")))
    assert folders() == first
    change(model, lambda name: name.startswith("levels.1.encoder"))
    second = folders()
    assert [a == b for a, b in zip(first, second)] == [True, False, True]
    change(model, lambda name: name == "levels.2.codebook.k")
    assert [a == b for a, b in zip(second, folders())] == [True, True, False]


def test_a_stream_without_a_trained_codec_has_no_folder(tmp_path):
    info = Jukebox.create(tmp_path / "model", find("test").codec).info
    with pytest.raises(UserError, match=r"no trained codec for vq.1; run `jukebox train vqvae` first"):
        codes_folder(tmp_path, info, "vq.1")


def test_codes_are_read_from_their_folders_and_from_that_of_version_1_which_comes_last(model, tmp_path):
    new, old = codes_folder(tmp_path, model, "vq.2"), tmp_path / "codes" / model.old_codes_hash("vq.2")
    with pytest.raises(UserError, match=r"no codes of this codec for vq.1 and vq.2; run `jukebox encode .*--from_audio"):
        open_codes(tmp_path, model, ["vq.1", "vq.2"])
    write(old, "level_2", a=1, b=1)
    assert folders_with(tmp_path, model, "vq.2") == folders_with(tmp_path, model, "vq.1") == [old]
    write(new, "vq.2", b=2, c=2)
    assert folders_with(tmp_path, model, "vq.2") == [new, old]
    reader = open_codes(tmp_path, model, ["vq.2"])
    assert {song: int(reader.read(song, "vq.2")[0]) for song in reader.songs} == {"a": 1, "b": 2, "c": 2}
    write(codes_folder(tmp_path, model, "vq.1"), "vq.1", a=3, c=3)
    reader = open_codes(tmp_path, model, ["vq.1", "vq.2"])
    assert reader.songs_with(["vq.1", "vq.2"]) == ["a", "c"] and int(reader.read("c", "vq.1")[0]) == 3
    change(model, lambda name: name.startswith("levels.0.decoder"))  # what version 1 wrote is of another file now
    assert folders_with(tmp_path, model, "vq.2") == [new]
