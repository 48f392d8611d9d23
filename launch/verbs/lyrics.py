"""`jukebox lyrics train`: train SentencePiece tokens on the lyrics of a data folder, in any language."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data_prep.errors import UserError


def lyrics(what: Literal["train"], data: str, *, out: str, vocabulary: int = 512) -> None:
    """Train SentencePiece tokens for lyrics, before the model's first prior with lyrics is trained.

    what: train
    data: the data folder that `jukebox prepare` made; its training songs are read
    out: the model folder, created if missing
    vocabulary: largest number of tokens; 256 are single bytes, so that any text can be encoded
    """
    from filelock import FileLock

    from data_prep.manifest import load_manifest
    from jukebox.model.folder import write_vocabulary
    from jukebox.model.info import CONFIG, ModelInfo
    from priors.conditioning.vocabulary import SentencePieceVocabulary

    rows = [row for row in load_manifest(Path(data)) if row.split == "train"]
    texts = [row.lyrics for row in rows if row.lyrics and row.lyrics.strip()]
    if not texts:
        raise UserError(f"none of the {len(rows)} training songs of {data} has lyrics; see docs/data.md for where to put them")
    folder = Path(out)
    entries = ModelInfo.read(folder).priors.values() if (folder / CONFIG).is_file() else ()
    if readers := [entry.name for entry in entries if entry.config.lyrics]:
        raise UserError(f"{readers[0]} in {folder} has a vocabulary already; give a new --out for another one")
    pieces = SentencePieceVocabulary.train(texts, vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        write_vocabulary(folder, pieces)
    length = sum(map(len, texts)) / sum(len(pieces.encode(text).ids) for text in texts)
    print(f"{pieces.size} pieces from {len(texts)} songs in {folder}: {length:.2f} characters a piece")
