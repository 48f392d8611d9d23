"""`jukebox import`: a published checkpoint becomes a model folder, its pickle read but never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError

if TYPE_CHECKING:
    from vqvae.vqvae import VQVAEConfig


def find_config(content: Mapping[str, Any], preset: str, path: Path) -> VQVAEConfig:
    """The configuration that `preset` names, else that of the settings in the file, else the published one."""
    from jukebox.openai import VQVAES, vqvae_config

    if preset and preset not in VQVAES:
        raise UserError(f"there is no published codec {preset!r}; expected --preset {' or '.join(VQVAES)}")
    hps = content.get("hps")
    told = isinstance(hps, Mapping) and {"levels", "downs_t", "strides_t"} <= set(hps)
    settings: Mapping[str, Any] = (
        VQVAES[preset] if preset else hps if isinstance(hps, Mapping) and told else VQVAES["vqvae"]
    )
    try:
        return vqvae_config({name: value for name, value in settings.items() if _is_plain(value)})
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: its settings make no codec ({error}); name them with --preset") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def import_(what: Literal["vqvae"], *, files: str, out: str, preset: str = "") -> None:
    """Make a model folder of a published checkpoint, or of one that the published code has trained.

    what: vqvae (the codec)
    files: the checkpoint, such as vqvae.pth.tar
    out: the model folder
    preset: its shape: vqvae (44.1 kHz, three levels) or small_vqvae; empty: what the file tells, or vqvae
    """
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
