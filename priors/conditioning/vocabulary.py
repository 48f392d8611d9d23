"""Vocabularies that map lyrics to ids, and the choice of the lyrics for a window of audio. This module does not need torch.

A vocabulary is a string of symbols (`Characters`) or a SentencePiece model (`SentencePieceVocabulary`). Id 0 is padding.
Characters outside the vocabulary are transliterated if possible. Otherwise they are dropped, counted and reported. `PUBLISHED`
has the published vocabularies: v2 with 80 ids, v3 with 79 ids.
"""

from __future__ import annotations

import io
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

_ALPHANUMERIC = string.ascii_uppercase + string.ascii_lowercase + string.digits
PUBLISHED = {"v2": _ALPHANUMERIC + ".,:;!?-+'\"()[] \t\n", "v3": _ALPHANUMERIC + ".,:;!?-'\"()[] \t\n"}
PLAIN = string.ascii_lowercase + " '\n"  # lower case only: enough for synthetic songs, and fast to learn


def transliterate(character: str) -> str:
    """Return the ASCII transliteration of one character.

    It comes from Unidecode if that is installed, as published. Otherwise only accents are removed.
    """
    if character.isascii():
        return character
    try:
        from unidecode import unidecode
    except ImportError:
        decomposed = unicodedata.normalize("NFKD", character)
        return "".join(c for c in decomposed if c.isascii())
    return unidecode(character)


@dataclass(frozen=True)
class Tokens:
    """The ids of a text, the index in the text of each id, and the dropped characters (character -> count)."""

    ids: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]
    dropped: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Characters:
    """A vocabulary of single characters. Ids start at 1, in the order of `symbols`."""

    symbols: str = PUBLISHED["v3"]
    kind: str = "characters"

    @property
    def size(self) -> int:
        return len(self.symbols) + 1

    def encode(self, text: str) -> Tokens:
        """Return the ids of a text. A backslash stands for a line break, as published.

        If the vocabulary has no upper-case characters, the text is converted to lower case.
        """
        table = {symbol: i + 1 for i, symbol in enumerate(self.symbols)}
        lower = not any(c.isupper() for c in self.symbols)
        ids, positions, dropped = [], [], Counter()
        for position, original in enumerate(text):
            spelled = transliterate(original).replace("\\", "\n")
            spelled = spelled.lower() if lower else spelled
            known = [table[c] for c in spelled if c in table]
            if len(known) < max(1, len(spelled)):
                dropped[original] += 1
            ids += known
            positions += [position] * len(known)
        return Tokens(np.array(ids, dtype=np.int64), np.array(positions, dtype=np.int64), dropped)

    def decode(self, ids) -> str:
        """Return the text of ids. Id 0 is skipped."""
        return "".join(self.symbols[int(i) - 1] for i in ids if int(i) > 0)

    def to_json(self) -> dict:
        return {"kind": self.kind, "symbols": self.symbols}


class SentencePieceVocabulary:
    """A vocabulary of SentencePiece tokens (unigram model) for any language. Characters without a token become UTF-8 bytes."""

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self.processor = SentencePieceProcessor(model_proto=model)

    @staticmethod
    def train(texts: Iterable[str], vocabulary: int = 512) -> SentencePieceVocabulary:
        """Train a vocabulary of at most `vocabulary` tokens on lyrics. 256 tokens are bytes, and one is the line break.

        Raise ValueError if `vocabulary` is too small or there are no lyrics.
        """
        from sentencepiece import SentencePieceTrainer

        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError("there are no lyrics to train SentencePiece tokens on; expected at least one line")
        if vocabulary < 300:
            raise ValueError(
                f"a vocabulary of {vocabulary}: 256 tokens are bytes already; expected 300 or more, for example 512"
            )
        written = io.BytesIO()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=written, model_type="unigram", vocab_size=vocabulary,
                hard_vocab_limit=False, byte_fallback=True, character_coverage=0.9995, user_defined_symbols=["\n"],
                normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
                pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, num_threads=1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:  # the lyrics have more characters than the vocabulary has tokens
            raise ValueError(f"no {vocabulary} pieces can be learned from these lyrics ({error}); try more") from error
        return SentencePieceVocabulary(written.getvalue())

    @property
    def size(self) -> int:
        return self.processor.get_piece_size()

    def encode(self, text: str) -> Tokens:
        """Return the ids of a text. The position of a token is the index of its first character that is not a space."""
        ids, positions, dropped, at, pending = [], [], Counter(), 0, 0
        for piece in self.processor.encode(text, out_type=str):
            number = self.processor.piece_to_id(piece)
            if self.processor.is_byte(number):  # a character without a token: its UTF-8 bytes
                ids.append(number)
                positions.append(at)
                pending = (pending or len(text[at].encode())) - 1
                at += pending == 0
                continue
            if number == self.processor.unk_id():
                dropped.update(piece)
            else:
                ids.append(number)
                blanks = len(piece) - len(piece.lstrip("\u2581"))  # SentencePiece's symbol for a space
                positions.append(at + (blanks if blanks < len(piece) else 0))
            at += len(piece)
        return Tokens(np.array(ids, dtype=np.int64), np.array(positions, dtype=np.int64), dropped)

    def decode(self, ids) -> str:
        """Return the text of ids. Id 0 is skipped."""
        return self.processor.decode([int(i) for i in ids if int(i) > 0])

    def to_json(self) -> dict:
        return {"kind": self.kind, "size": self.size}


Vocabulary = Characters | SentencePieceVocabulary


def linear_window(count: int, n_tokens: int, total: int, offset: int, duration: int, published: bool = False) -> int:
    """Return the index of the first of the `n_tokens` ids for a window of audio.

    A negative index is the amount of padding on the left. The lyrics are assumed to be spread evenly over the song, as
    published. `total`, `offset` and `duration` are in samples. The published sampling code computes in float32, whose result is
    sometimes one character off. `published` reproduces this.
    """
    if count < n_tokens:
        return count - n_tokens
    number = np.float32 if published else float
    middle = int(number(count) * (number(offset) + number(duration) / number(2)) / number(total))
    return min(max(middle - n_tokens // 2, 0), count - n_tokens)


def timed_window(seconds: Float[np.ndarray, " n"], n_tokens: int, middle: float) -> int:
    """Return the index of the first of the `n_tokens` ids around the second `middle` of the song.

    `seconds` has the time of each id (nan: unknown). A negative index is the amount of padding on the left.
    """
    if len(seconds) < n_tokens:
        return len(seconds) - n_tokens
    known = np.flatnonzero(~np.isnan(seconds))
    at = int(known[np.abs(seconds[known] - middle).argmin()])
    return min(max(at - n_tokens // 2, 0), len(seconds) - n_tokens)
