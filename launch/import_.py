"""`jukebox import`: published checkpoints become a model folder, their pickles read but never run.

A codec alone (`vqvae`), or a whole set: the codec, two upsamplers and a top prior, from a download, from files in the
published layout, or from a hub folder of the registry's port. Priors go through the memory of one tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError

if TYPE_CHECKING:
    from jukebox.convert import Source
    from jukebox.model import Jukebox
    from vqvae.vqvae import VQVAEConfig

ROOT = "https://openaipublic.azureedge.net/"
TABLES = "https://raw.githubusercontent.com/openai/jukebox/master/"
# set -> the folder of its top prior, the settings of that prior, the version of its labels and letters
SETS = {
    "5b": ("5b", "prior_5b", "v2"),
    "5b_lyrics": ("5b_lyrics", "prior_5b_lyrics", "v2"),
    "1b_lyrics": ("1b_lyrics", "prior_1b_lyrics", "v3"),
}
LICENCE = (
    "the published checkpoints are under a noncommercial licence, and so is what is made with them; see docs/openai.md"
)


def parts_of(name: str) -> list[str]:
    """Where the files of a set lie under the root, and in the cache."""
    shared = [f"jukebox/models/5b/{part}.pth.tar" for part in ("vqvae", "prior_level_0", "prior_level_1")]
    return [*shared, f"jukebox/models/{SETS[name][0]}/prior_level_2.pth.tar"]


def find_files(files: str, name: str) -> list[Path]:
    """The checkpoints that `files` names: themselves with commas between, or a folder that holds them."""
    paths = [Path(part.strip()).expanduser() for part in files.split(",") if part.strip()]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        found = [folder / part for part in parts_of(name) if (folder / part).is_file()]
        # ~/.cache as the published code leaves it, jukebox/models/5b.., or all files side by side
        paths = found or sorted(folder.glob("vqvae*.pth.tar")) + sorted(folder.glob("prior_level_*.pth.tar"))
        if not paths:
            raise UserError(
                f"{folder} holds no checkpoints; expected vqvae.pth.tar and prior_level_2.pth.tar, or a hub folder with config.json"
            )
    if gone := [path for path in paths if not path.is_file()]:
        raise UserError(f"there is no file {gone[0]}")
    return paths


def find_config(content: Mapping[str, Any], preset: str, path: Path) -> VQVAEConfig:
    """The configuration that `preset` names, else that of the settings in the file, else the published one."""
    from jukebox.convert import is_plain
    from jukebox.openai import VQVAES, vqvae_config

    if preset and preset not in VQVAES:
        raise UserError(f"there is no published codec {preset!r}; expected --preset {' or '.join(VQVAES)}")
    hps = content.get("hps")
    told = isinstance(hps, Mapping) and {"levels", "downs_t", "strides_t"} <= set(hps)
    settings: Mapping[str, Any] = (
        VQVAES[preset] if preset else hps if isinstance(hps, Mapping) and told else VQVAES["vqvae"]
    )
    try:
        return vqvae_config({name: value for name, value in settings.items() if is_plain(value)})
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: its settings make no codec ({error}); name them with --preset") from error


def open_source(name: str, files: str, url: str, cache: str) -> Source:
    """The set's weights: the user's files or hub folder, else a download."""
    from jukebox.convert import open_port, open_published
    from jukebox.download import download

    if files and (Path(files).expanduser() / "config.json").is_file():
        return open_port(Path(files).expanduser())
    if files:
        return open_published(find_files(files, name))
    print(LICENCE)
    folder = Path(cache).expanduser()
    return open_published([download((url or ROOT).rstrip("/") + "/" + p, folder / p) for p in parts_of(name)])


def find_tables(versions: set[str], labels: str, url: str, cache: str) -> Path:
    """A folder with the id tables of these versions: the user's, else a download."""
    from jukebox.download import download

    names = [f"{version}_{kind}_ids.txt" for version in sorted(versions) for kind in ("artist", "genre")]
    if labels:
        folder = Path(labels).expanduser()
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise UserError(f"{folder} has no {missing[0]}; expected the folder data/ids of the published code")
        return folder
    folder = Path(cache).expanduser() / "jukebox/data/ids"
    for name in names:
        download((url or TABLES).rstrip("/") + f"/jukebox/data/ids/{name}", folder / name)
    return folder


def import_set(
    name: str, source: Source, tables: Path | None, out: str | Path, dtype: str, done: Callable[[int], object] | None = None
) -> Jukebox:  # fmt: skip
    """Write the model folder of a set from its source: the codec, then one prior after another."""
    from jukebox.convert import DTYPES, fitting, write_prior
    from jukebox.model import Jukebox
    from jukebox.openai import VQVAES, vqvae_config, vqvae_state
    from jukebox.openai_labels import PublishedLabels
    from jukebox.openai_priors import PRIORS, alignment_way
    from priors.lyrics import PUBLISHED, Characters
    from vqvae.vqvae import VQVAE

    _, top_name, version = SETS[name]
    hps: dict[str, Any] = {**VQVAES["vqvae"]}
    if source.codec_hps and {"levels", "downs_t", "strides_t"} <= set(source.codec_hps):
        hps = source.codec_hps
    config, jukebox = vqvae_config(hps), None
    if (Path(out) / "config.json").is_file() and source.codec is None:
        jukebox = Jukebox.from_pretrained(out)
        config = jukebox.codec_config
        hps = {"l_bins": config.bins, "downs_t": config.downs_t, "strides_t": config.strides_t}
    elif source.codec is None:
        raise UserError(f"no vqvae.pth.tar among the files, and {out} holds no codec yet; add it to --files")
    fitted = {}
    for level, weights in source.priors.items():
        named = {0: "upsampler_level_0", 1: "upsampler_level_1"}.get(level, top_name)
        told = source.prior_hps.get(level) or {}
        choices = [told, PRIORS[named]] if {"prior_width", "attn_order", "n_ctx"} <= set(told) else [PRIORS[named]]
        if "prior_width" in told and source.where[level].is_dir():
            choices.reverse()  # a hub folder's settings leave out some of the published: they come second
        codec = {key: hps.get(key, VQVAES["vqvae"].get(key)) for key in ("l_bins", "downs_t", "strides_t")}
        try:
            fitted[level] = fitting(weights, choices, codec)
        except ValueError as error:
            raise UserError(f"{source.where[level]} is not {named}: {error}") from error
    if source.codec is not None:
        try:
            state = vqvae_state({key: tensor.read() for key, tensor in source.codec.items()}, config)
        except ValueError as error:
            raise UserError(f"the codec of {name}: {error}") from error
        jukebox = Jukebox.create(out, config, Characters(PUBLISHED[version]))
        codec_ = VQVAE(config)
        codec_.load_state_dict(state)
        jukebox.save_codec(codec_)
    assert jukebox is not None
    for level in sorted(fitted, reverse=True):
        weights, prior = fitted[level]
        write_prior(jukebox.folder / f"prior_{level}.safetensors", weights, DTYPES[dtype], done)
        jukebox.name_prior(level, prior)
        if level == 2 and (way := alignment_way(top_name, prior)):
            jukebox.save_alignment(level, way)
    if tables is not None:
        jukebox.save_labels(PublishedLabels.read(tables, version).labels())
        for level in sorted(set(fitted) - {2}) if version != "v2" else ():
            jukebox.save_labels(PublishedLabels.read(tables, "v2").labels(), level)
    return jukebox


def import_(
    what: Literal["vqvae", "5b", "5b_lyrics", "1b_lyrics"],
    *,
    out: str,
    files: str = "",
    url: str = "",
    labels: str = "",
    dtype: Literal["float32", "bf16", "fp16"] = "float32",
    preset: str = "",
    cache: str = "~/.cache",
) -> None:
    """Make a model folder of published checkpoints, or of those that the published code has trained.

    what: vqvae (a codec alone), or a set of codec, upsamplers and top prior: 5b, 5b_lyrics, 1b_lyrics
    out: the model folder
    files: your checkpoints, with commas between, or their folder, or a hub folder openai/jukebox-*; empty: download
    url: where to download from instead, the root above jukebox/models and jukebox/data
    labels: your folder with the id tables such as v2_artist_ids.txt; empty: download them
    dtype: numbers of the priors: float32, bf16 or fp16 (norms stay float32)
    preset: shape of a vqvae: vqvae (44.1 kHz, three levels) or small_vqvae; empty: what the file tells, or vqvae
    cache: where downloads are kept
    """
    from launch.log import progress

    if what == "vqvae":
        if not files:
            raise UserError("import vqvae needs --files, the checkpoint of a codec such as vqvae.pth.tar")
        return import_codec(files, out, preset)
    source = open_source(what, files, url, cache)
    wide = {"float32": 4, "bf16": 2, "fp16": 2}[dtype]
    total = sum(math.prod(tensor.shape) * wide for weights in source.priors.values() for tensor in weights.values())
    versions = {SETS[what][2]} | ({"v2"} if set(source.priors) - {2} else set())
    tables = find_tables(versions, labels, url, cache)
    with progress(total, f"converting {what}", unit="B") as bar:
        jukebox = import_set(what, source, tables, out, dtype, bar.update)
    names = ", ".join(map(str, sorted(source.priors, reverse=True))) or "none"
    print(f"{what}: the codec and the priors of level {names} in {dtype} are now {jukebox.folder}")
    print(LICENCE)


def import_codec(files: str, out: str, preset: str = "") -> None:
    """Make a model folder of a codec's checkpoint."""
    from jukebox.model import Jukebox
    from jukebox.openai import vqvae_state
    from jukebox.torchfile import open_checkpoint, state_dict
    from vqvae.vqvae import VQVAE

    path = Path(files)
    checkpoint = open_checkpoint(path)
    weights = state_dict(checkpoint)
    config = find_config(checkpoint.content, preset, path)
    try:
        state = vqvae_state(weights, config)
    except ValueError as error:
        raise UserError(f"{path}: {error}; if its codec has another shape, name it with --preset") from error
    codec = VQVAE(config)
    codec.load_state_dict(state)
    jukebox = Jukebox.create(out, config)
    jukebox.save_codec(codec)
    step = checkpoint.content.get("step")
    after = f", after {step} steps" if type(step) is int and step else ""
    print(f"{path}: a codec of {config.levels} levels at {config.sample_rate} Hz{after} is now {jukebox.folder}")
