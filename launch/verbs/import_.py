"""`jukebox import`: convert published checkpoints to a model folder. Their pickles are parsed but never executed.

The verb converts a codec alone (`vqvae`), or a set of codec, two upsamplers and top prior. The sources are a download, files in
the published layout, or a hub folder of the port. Priors are converted with one tensor in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from launch.cli.parse import read_list

if TYPE_CHECKING:
    from jukebox.importers.convert import FoundWeights
    from jukebox.importers.labels import PublishedLabels
    from vqvae.jukebox.config import VQVAEConfig

ROOT = "https://openaipublic.azureedge.net/"
TABLES = "https://raw.githubusercontent.com/openai/jukebox/master/"
HASHES = {  # first digits of the SHA-256 of the published tables
    "v2_artist_ids.txt": "fce2ecc0c7b00838", "v2_genre_ids.txt": "04d7c5e5f0002c74",
    "v3_artist_ids.txt": "85ab98ca035945a9", "v3_genre_ids.txt": "f85f72dca1e6052d",
}  # fmt: skip
LICENCE = "the published checkpoints are under a noncommercial licence, and so is what is made with them; see docs/openai.md"


def parts_of(name: str) -> list[str]:
    """Return the paths of the files of a set, relative to the root of downloads and to the cache."""
    from jukebox.model.settings import SETS

    shared = [f"jukebox/models/5b/{part}.pth.tar" for part in ("vqvae", "prior_level_0", "prior_level_1")]
    return [*shared, f"jukebox/models/{SETS[name][0]}/prior_level_2.pth.tar"]


def find_files(files: str, name: str) -> list[Path]:
    """Return the checkpoints of the set `name` in `files`: paths joined by commas, or a folder. UserError if one is missing."""
    paths = [Path(part).expanduser() for part in read_list(files)]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        found = [folder / part for part in parts_of(name) if (folder / part).is_file()]
        # the cache of the published code (~/.cache) with jukebox/models/5b.., or all files in one folder
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
    """Return the configuration of a codec: of `preset`, or of the settings in the file, or the published one."""
    from jukebox.importers.convert import is_plain
    from jukebox.model.settings import VQVAES, vqvae_config

    if preset and preset not in VQVAES:
        raise UserError(f"there is no published codec {preset!r}; expected --preset {' or '.join(VQVAES)}")
    settings = VQVAES[preset or "vqvae"]
    hps = content.get("hps")
    if not preset and isinstance(hps, Mapping) and {"levels", "downs_t", "strides_t"} <= set(hps):
        settings = hps
    try:
        return vqvae_config({name: value for name, value in settings.items() if is_plain(value)})
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: its settings make no codec ({error}); name them with --preset") from error


def open_source(name: str, files: str, url: str, cache: str) -> FoundWeights:
    """Open the weights of a set: the user's files or hub folder, or a download."""
    from jukebox.importers.convert import open_port, open_published
    from jukebox.importers.download import download

    if files and (Path(files).expanduser() / "config.json").is_file():
        return open_port(Path(files).expanduser())
    if files:
        return open_published(find_files(files, name))
    print(LICENCE)
    folder = Path(cache).expanduser()
    return open_published([download((url or ROOT).rstrip("/") + "/" + p, folder / p) for p in parts_of(name)])


def find_tables(versions: set[str], labels: str, url: str, cache: str) -> dict[str, PublishedLabels]:
    """Read the id tables of these versions: from the user's folder `labels`, or from a download."""
    from jukebox.importers.download import download
    from jukebox.importers.labels import PublishedLabels

    folder = Path(labels or cache).expanduser() / ("" if labels else "jukebox/data/ids")
    for name in [f"{version}_{kind}_ids.txt" for version in sorted(versions) for kind in ("artist", "genre")]:
        if not labels:
            download(
                f"{(url or TABLES).rstrip('/')}/jukebox/data/ids/{name}", folder / name, sha256="" if url else HASHES[name]
            )
        elif not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}; expected the folder data/ids of the published code")
    return {version: PublishedLabels.read(folder, version) for version in versions}


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
    """Convert published checkpoints, or others trained by the published code, to a model folder.

    what: vqvae (a codec alone), or a set of codec, upsamplers and top prior: 5b, 5b_lyrics, 1b_lyrics
    out: the model folder
    files: your checkpoints, joined by commas, or their folder, or a hub folder openai/jukebox-*; empty: download
    url: another root for downloads, above jukebox/models and jukebox/data
    labels: your folder with the id tables such as v2_artist_ids.txt; empty: download them
    dtype: dtype of the priors: float32, bf16 or fp16 (norms stay float32)
    preset: shape of a vqvae: vqvae (44.1 kHz, three levels) or small_vqvae; empty: that of the file, or vqvae
    cache: folder for downloads
    """
    if what == "vqvae":
        if not files:
            raise UserError("import vqvae needs --files, the checkpoint of a codec such as vqvae.pth.tar")
        return import_codec(files, out, preset)
    from jukebox.importers.convert import DTYPES
    from jukebox.importers.published import PublishedSet
    from launch.cli.progress import progress

    found = PublishedSet(what, open_source(what, files, url, cache), out)
    found.take_names(find_tables(set(found.versions.values()), labels, url, cache))
    with progress(found.numbers * DTYPES[dtype].itemsize, f"converting {what}", unit="B") as bar:
        jukebox = found.write(dtype, bar.update)
    levels = ", ".join(map(str, found.priors)) or "none"
    parts = "the codec and the priors" if found.source.codec is not None else "the priors"
    print(f"{what}: {parts} of level {levels} in {dtype} are now {jukebox.folder}")
    if missing := sorted(set(range(len(jukebox.hops))) - set(jukebox.info.levels_with_prior), reverse=True):
        print(f"no prior of level {', '.join(map(str, missing))} was among the files; add it later with the same --out")
    print(LICENCE)


def import_codec(files: str, out: str, preset: str = "") -> None:
    """Convert the checkpoint of a codec to a model folder."""
    from jukebox.importers.torchfile import open_checkpoint, state_dict
    from jukebox.importers.vqvae_keys import vqvae_state
    from jukebox.model.folder import ModelFolder, build_codec

    path = Path(files)
    checkpoint = open_checkpoint(path)
    weights = state_dict(checkpoint)
    config = find_config(checkpoint.content, preset, path)
    try:
        state = vqvae_state(weights, config)
    except ValueError as error:
        raise UserError(f"{path}: {error}; if its codec has another shape, name it with --preset") from error
    codec = build_codec(config)
    codec.load_state_dict(state)
    jukebox = ModelFolder.create(out, config)
    jukebox.save_codec(codec)
    step = checkpoint.content.get("step")
    after = f", after {step} steps" if type(step) is int and step else ""
    print(f"{path}: a codec of {config.levels} levels at {config.sample_rate} Hz{after} is now {jukebox.folder}")
