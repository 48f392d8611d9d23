"""`jukebox import`: published checkpoints become a model folder, their pickles read but never run.

A codec alone (`vqvae`), or a whole set: the codec, two upsamplers and a top prior, from a download, from files in the
published layout, or from a hub folder of the registry's port. Priors go through the memory of one tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError

if TYPE_CHECKING:
    from jukebox.convert import Source, Weights
    from jukebox.model import Jukebox
    from jukebox.openai_labels import PublishedLabels
    from priors.autoregressive import PriorConfig
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
                f"{folder} holds no checkpoints of {name}; expected vqvae.pth.tar and prior_level_2.pth.tar, the folder above "
                "jukebox/models (such as ~/.cache), or a hub folder with config.json"
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


def find_tables(versions: set[str], labels: str, url: str, cache: str) -> dict[str, PublishedLabels]:
    """The id tables of these versions: the user's folder of them, else a download."""
    from jukebox.download import download
    from jukebox.openai_labels import PublishedLabels

    folder = Path(labels or cache).expanduser() / ("" if labels else "jukebox/data/ids")
    for name in [f"{version}_{kind}_ids.txt" for version in sorted(versions) for kind in ("artist", "genre")]:
        if not labels:
            download((url or TABLES).rstrip("/") + f"/jukebox/data/ids/{name}", folder / name)
        elif not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; expected the folder data/ids of the published code")
    return {version: PublishedLabels.read(folder, version) for version in versions}


def codec_settings(source: Source, out: str | Path) -> dict[str, Any]:
    """The settings of the set's codec: those in its file, else of the codec that `out` has, else the published ones."""
    from jukebox.model import Jukebox
    from jukebox.openai import VQVAES

    if source.codec_hps and {"levels", "downs_t", "strides_t"} <= set(source.codec_hps):
        return VQVAES["vqvae"] | source.codec_hps
    if source.codec is not None:
        return VQVAES["vqvae"]
    if not (Path(out) / "config.json").is_file():
        raise UserError(f"no vqvae.pth.tar among the files, and {out} holds no codec yet; add it to --files")
    config = Jukebox.from_pretrained(out).codec_config
    return {"l_bins": config.bins, "levels": config.levels, "downs_t": config.downs_t, "strides_t": config.strides_t}


def versions_of(name: str, source: Source, top: int) -> dict[int, str]:
    """Whose labels and letters each prior has learned, v2 or v3; one that knows no labels is left out.

    The settings in its file tell it. Without them the top prior has its set's, what lies below v2.
    """
    found = {}
    for level in source.priors:
        told = source.prior_hps.get(level) or {}
        version = SETS[name][2] if level == top else "v2"
        if "labels_v3" in told:
            version = "v3" if told["labels_v3"] else "v2"
        if told.get("labels", True):
            found[level] = version
    return found


def fit_prior(name: str, source: Source, level: int, codec: Mapping[str, Any]) -> tuple[Weights, PriorConfig]:
    """A prior's weights under our names, and its shape; UserError where they are not of the set."""
    from jukebox.convert import fitting
    from jukebox.openai import VQVAES
    from jukebox.openai_priors import PRIORS, prior_config

    top, where, told = codec["levels"] - 1, source.where[level], source.prior_hps.get(level) or {}
    named = SETS[name][1] if level == top else f"upsampler_level_{level}"
    choices = [told, PRIORS[named]] if {"prior_width", "attn_order", "n_ctx"} <= set(told) else [PRIORS[named]]
    if where.is_dir():
        choices.reverse()  # a hub folder's settings leave out some of the published: they come second
    try:
        weights, config = fitting(source.priors[level], choices, codec)
    except ValueError as error:
        raise UserError(f"{where} is not {named}: {error}") from error
    published = prior_config(PRIORS[named], VQVAES["vqvae"])
    for what in ("lyrics", "letters_in_front", "above"):
        if bool(getattr(config, what)) != bool(getattr(published, what)):
            raise UserError(
                f"{where} is a prior with another form of {what.split('_')[0]} than {named}; is it of another set?"
            )
    return weights, config


def check_tables(config: PriorConfig, tables: PublishedLabels, where: Path) -> None:
    """UserError where the tables have more names, or other letters, than the prior has learned."""
    from priors.lyrics import PUBLISHED, Characters

    labels, letters = tables.labels(), Characters(PUBLISHED[tables.version]).size
    assert config.labels
    for what, named, known in (
        ("artists", len(labels.artists), config.labels.artists), ("genres", len(labels.genres), config.labels.genres),
    ):  # fmt: skip
        if named > known:
            raise UserError(
                f"the {tables.version} table names {named} {what}, {where} knows {known}; give its own --labels"
            )
    if config.lyrics and config.lyrics.vocabulary != letters:
        raise UserError(f"{where} knows {config.lyrics.vocabulary} letters; those of {tables.version} are {letters}")


def import_set(
    name: str, source: Source, tables: Mapping[str, PublishedLabels], out: str | Path, dtype: str
) -> Jukebox:
    """Write the model folder of a set from its source: the codec, then one prior after another."""
    from jukebox.convert import DTYPES, write_prior
    from jukebox.model import Jukebox
    from launch.log import progress

    hps = codec_settings(source, out)
    top = hps["levels"] - 1
    versions = versions_of(name, source, top)
    fitted = {level: fit_prior(name, source, level, hps) for level in sorted(source.priors, reverse=True)}
    for level, version in versions.items():
        check_tables(fitted[level][1], tables[version], source.where[level])
    first = versions.get(top, SETS[name][2])
    jukebox = Jukebox.from_pretrained(out) if source.codec is None else write_codec(name, source, hps, first, out)
    numbers = sum(math.prod(tensor.shape) for weights, _ in fitted.values() for tensor in weights.values())
    with progress(numbers * DTYPES[dtype].itemsize, f"converting {name}", unit="B") as bar:
        for level, (weights, prior) in fitted.items():
            write_prior(jukebox.folder / f"prior_{level}.safetensors", weights, DTYPES[dtype], bar.update)
            jukebox.name_prior(level, prior)
    for level, version in versions.items():
        jukebox.save_labels(tables[version].labels(), None if version == first else level)
    return jukebox


def write_codec(name: str, source: Source, hps: Mapping[str, Any], version: str, out: str | Path) -> Jukebox:
    """The model folder with its codec, which is read whole."""
    from jukebox.model import Jukebox
    from jukebox.openai import vqvae_config, vqvae_state
    from priors.lyrics import PUBLISHED, Characters
    from vqvae.vqvae import VQVAE

    assert source.codec is not None
    config = vqvae_config(hps)
    try:
        state = vqvae_state({key: tensor.read() for key, tensor in source.codec.items()}, config)
    except ValueError as error:
        raise UserError(f"the codec of {name}: {error}") from error
    codec = VQVAE(config)
    codec.load_state_dict(state)
    jukebox = Jukebox.create(out, config, Characters(PUBLISHED[version]))
    jukebox.save_codec(codec)
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
    if what == "vqvae":
        if not files:
            raise UserError("import vqvae needs --files, the checkpoint of a codec such as vqvae.pth.tar")
        return import_codec(files, out, preset)
    source = open_source(what, files, url, cache)
    levels = codec_settings(source, out)["levels"]
    tables = find_tables(set(versions_of(what, source, levels - 1).values()), labels, url, cache)
    jukebox = import_set(what, source, tables, out, dtype)
    names = ", ".join(map(str, sorted(source.priors, reverse=True))) or "none"
    print(
        f"{what}: {'the codec and ' * bool(source.codec)}the priors of level {names} in {dtype} are now {jukebox.folder}"
    )
    if missing := sorted(set(range(levels)) - set(jukebox.prior_configs), reverse=True):
        print(f"no prior of level {', '.join(map(str, missing))} was among the files; add it later with the same --out")
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
