"""Lyrics as ids: vocabularies, and the window of text for a window of audio; without torch.

A vocabulary is a string of symbols (`Characters`) or a SentencePiece model (`SentencePieceVocabulary`); id 0 is padding.
Characters outside the vocabulary are transliterated if possible, else dropped, counted and reported. The published sets (v2
with 80 ids, v3 with 79) are `PUBLISHED`.
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
    """ASCII for one character: with Unidecode if it is installed (as published), else without accents."""
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
    """Ids of a text, the index in the text of each, and the dropped characters (character -> count)."""

    ids: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]
    dropped: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Characters:
    """A vocabulary of single characters; ids start at 1 in the order of `symbols`."""

    symbols: str = PUBLISHED["v3"]
    kind: str = "characters"

    @property
    def size(self) -> int:
        return len(self.symbols) + 1

    def encode(self, text: str) -> Tokens:
        """Ids of a text, converted to lower case if the vocabulary has lower case only; a backslash is a line break, as published."""
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
        """The text of ids; id 0 is empty."""
        return "".join(self.symbols[int(i) - 1] for i in ids if int(i) > 0)

    def to_json(self) -> dict:
        return {"kind": self.kind, "symbols": self.symbols}


class SentencePieceVocabulary:
    """A vocabulary of SentencePiece tokens for any language (unigram model); a rare character becomes its bytes."""

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self.processor = SentencePieceProcessor(model_proto=model)

    @staticmethod
    def train(texts: Iterable[str], vocabulary: int = 512) -> SentencePieceVocabulary:
        """Train at most `vocabulary` tokens on lyrics, including 256 bytes and the line break; ValueError if that is too few."""
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
        except RuntimeError as error:  # more characters than tokens
            raise ValueError(f"no {vocabulary} pieces can be learned from these lyrics ({error}); try more") from error
        return SentencePieceVocabulary(written.getvalue())

    @property
    def size(self) -> int:
        return self.processor.get_piece_size()

    def encode(self, text: str) -> Tokens:
        """Ids of a text; the position of a token is its first character that is not a space, where it is sung."""
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
        """The text of ids; id 0 is empty."""
        return self.processor.decode([int(i) for i in ids if int(i) > 0])

    def to_json(self) -> dict:
        return {"kind": self.kind, "size": self.size}


Vocabulary = Characters | SentencePieceVocabulary


def linear_window(count: int, n_tokens: int, total: int, offset: int, duration: int, published: bool = False) -> int:
    """Index of the first of n_tokens ids for a window of audio, with lyrics spread evenly over the song; negative: padding.

    Padding is on the left. The formula is the published one; total, offset and duration are in samples. The published sampling
    computes in float32, which is sometimes one character off; `published` does the same.
    """
    if count < n_tokens:
        return count - n_tokens
    number = np.float32 if published else float
    middle = int(number(count) * (number(offset) + number(duration) / number(2)) / number(total))
    return min(max(middle - n_tokens // 2, 0), count - n_tokens)


def timed_window(seconds: Float[np.ndarray, " n"], n_tokens: int, middle: float) -> int:
    """Index of the first of n_tokens ids around second `middle` of the song; `seconds` (nan: unknown) are their times."""
    if len(seconds) < n_tokens:
        return len(seconds) - n_tokens
    known = np.flatnonzero(~np.isnan(seconds))
    at = int(known[np.abs(seconds[known] - middle).argmin()])
    return min(max(at - n_tokens // 2, 0), len(seconds) - n_tokens)
