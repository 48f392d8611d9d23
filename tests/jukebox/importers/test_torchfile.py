"""Checkpoints of both formats are read exactly, and no other instruction of their pickles is executed."""

from __future__ import annotations

import enum
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from data_prep.errors import UserError
from jukebox.importers.torchfile import Placeholder, StoredTensor, open_checkpoint, state_dict

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Bomb:
    """An object whose pickle would run this command."""

    def __init__(self, witness) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class Mood(enum.Enum):
    CALM = 1


class Settings(dict):
    """As the published code keeps them: a dict of a class of its own."""


def save(path, content, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path, zipped):
    base = torch.randn(6, 5)
    tensors = OrderedDict(
        whole=base,
        view=base[1:4, ::2],
        turned=base.T,
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        half=base.half(),
        brain=base.bfloat16(),
        counts=torch.arange(7),
        flags=torch.tensor([True, False]),
        weight=torch.nn.Parameter(base * 2),
    )
    tensors = OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items())
    read = state_dict(open_checkpoint(save(tmp_path / "a.pth.tar", {"model": tensors, "step": 7}, zipped)))
    assert list(read) == [name.removeprefix("module.") for name in tensors]
    for name, tensor in tensors.items():
        mine = read[name.removeprefix("module.")]
        assert mine.dtype == tensor.dtype and mine.shape == tensor.shape and torch.equal(mine, tensor.detach())


@FORMATS
def test_a_module_and_an_optimiser_beside_the_weights_do_no_harm(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    content = {
        "model": model.state_dict(),
        "opt": optimiser.state_dict(),
        "step": 12,
        "hps": Settings(levels=3, mood=Mood.CALM),
        Mood.CALM: {1, 2},
        "extra": [model, slice(3), torch.float16, torch.Size([2, 3])],
    }
    checkpoint = open_checkpoint(save(tmp_path / "a.pth.tar", content, zipped))
    assert checkpoint.content["step"] == 12 and checkpoint.content["hps"]["levels"] == 3
    assert isinstance(checkpoint.content["opt"]["state"][0]["exp_avg"], StoredTensor), "it is not even read"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state_dict(checkpoint).items())


@FORMATS
@pytest.mark.parametrize("where", ["outside", "inside", "as the weights", "as the file"])
def test_a_malicious_pickle_is_never_run(tmp_path, zipped, where):
    witness = tmp_path / "it_ran"
    bomb, weights = Bomb(witness), {"w": torch.ones(2)}
    content = {
        "outside": {"model": weights, "opt": bomb},
        "inside": {"model": {**weights, "bomb": bomb}},
        "as the weights": {"model": bomb},
        "as the file": bomb,
    }[where]
    path = save(tmp_path / "a.pth.tar", content, zipped)
    if where == "outside":
        checkpoint = open_checkpoint(path)
        assert torch.equal(state_dict(checkpoint)["w"], torch.ones(2))
        assert isinstance(checkpoint.content["opt"], Placeholder)
    else:
        with pytest.raises(UserError, match=r"model\['bomb'\] is an object|unknown class|has no 'model'"):
            state_dict(open_checkpoint(path))
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists(), "the control: torch.load does run it"


@pytest.mark.parametrize("value", [3, "text", [torch.ones(1)], None, {"deeper": torch.ones(1)}])
def test_among_the_weights_only_tensors_are_read(tmp_path, value):
    with pytest.raises(UserError, match=r"model\['x'\] is a .*only tensors"):
        state_dict(open_checkpoint(save(tmp_path / "a", {"model": {"x": value}}, True)))


@FORMATS
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.7, 0.99])
def test_a_file_that_is_cut_short_is_one_clear_error(tmp_path, zipped, share):
    path = save(tmp_path / "a.pth.tar", {"model": {f"w{i}": torch.randn(50, 7) for i in range(9)}}, zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"a\.pth\.tar") as error:
        state_dict(open_checkpoint(path))
    assert ("cut short or damaged" if share else "an empty file") in str(error.value) and "\n" not in str(error.value)


def forge(path, shape=(4,), stride=(1,), offset=0, size=4, record=16):
    """A zip file whose pickle states these sizes for a storage of `record` bytes."""

    class Reference:
        pass

    class Forger(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", size) if isinstance(obj, Reference) else None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Reference(), offset, shape, stride, False, OrderedDict())

    with zipfile.ZipFile(path, "w") as archive, archive.open("a/data.pkl", "w") as file:
        Forger(file, protocol=2).dump({"model": {"w": Tensor()}})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/0", bytes(record))
    return path


@pytest.mark.parametrize(
    "lie", [{"shape": (5,)}, {"offset": 1}, {"stride": (2,)}, {"size": 5}, {"record": 8}, {"shape": (-1,)}, {"offset": -1}]
)
def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path, lie):
    assert state_dict(open_checkpoint(forge(tmp_path / "honest")))["w"].tolist() == [0.0] * 4
    with pytest.raises(UserError, match="cannot be read"):
        state_dict(open_checkpoint(forge(tmp_path / "lie", **lie)))


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"model": {}}))
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme", "hello")
    for name, words in (
        ("text", "cannot be read|no file of torch"),
        ("pickle", "no file of torch.save"),
        ("zip", "expected 1"),
        ("none", "there is no file"),
    ):
        with pytest.raises(UserError, match=words):
            open_checkpoint(tmp_path / name)


def test_a_compressed_member_is_not_expanded(tmp_path):
    whole = save(tmp_path / "a.pth.tar", {"model": {"w": torch.zeros(8)}}, True)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "bomb.pth.tar", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if not name.endswith("data.pkl") else b"0" * 1_000_000)
    with pytest.raises(UserError, match="compressed members, which torch.save does not write"):
        open_checkpoint(tmp_path / "bomb.pth.tar")


def test_a_pickle_that_asks_for_more_memory_than_its_bytes_justify_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "memo.pth.tar", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")  # remember this dict as number 2,147,483,647
    with pytest.raises(UserError, match="2147483647 is to be remembered"):
        open_checkpoint(tmp_path / "memo.pth.tar")
