"""Pieces of words: any text to ids and back, each piece at the place in the text where it is sung."""

from __future__ import annotations

import numpy as np
import pytest

from priors.conditioning.vocabulary import Characters, SentencePieceVocabulary

LINES = [
    "the river carries all our names",
    "we sing until the morning light",
    "oh morning, carry me away",
    "über die Brücke, Liebe",
]
TEXTS = ["\n".join(LINES[i % 4 :] + LINES[: i % 4]) for i in range(8)]


@pytest.fixture(scope="module")
def pieces():
    return SentencePieceVocabulary.train(TEXTS, 340)


@pytest.mark.parametrize(
    "text", ["", "we sing", *LINES, "two\nlines", "日本語の歌 🎵", "  spaces   kept ", "Ünbekannt\n\nПесня"]
)
def test_decoding_undoes_encoding_in_any_language(pieces, text):
    tokens = pieces.encode(text)
    assert pieces.decode(tokens.ids) == text and not tokens.dropped
    assert len(tokens.ids) == len(tokens.positions) and (tokens.ids > 0).all() and (tokens.ids < pieces.size).all()
    assert (np.diff(tokens.positions) >= 0).all() if len(text) else True


def test_a_piece_stands_at_its_first_letter(pieces):
    text = "we sing\nthe river"
    tokens = pieces.encode(text)
    assert {text.index("sing"), text.index("\n"), text.index("the"), text.index("river")} <= set(tokens.positions.tolist())
    mixed = "we 日本 sing"
    tokens = pieces.encode(mixed)
    spelled = [p for i, p in zip(tokens.ids, tokens.positions) if pieces.processor.is_byte(int(i))]
    assert spelled == [3] * 3 + [4] * 3 and mixed.index("sing") in tokens.positions


def test_pieces_are_fewer_than_characters_where_they_were_learned(pieces):
    text = TEXTS[0]
    assert len(pieces.encode(text).ids) < 0.7 * len(Characters().encode(text).ids)


def test_training_is_a_function_of_its_lyrics(pieces):
    assert SentencePieceVocabulary.train(TEXTS, 340).model == pieces.model
    assert SentencePieceVocabulary(pieces.model).encode(LINES[0]).ids.tolist() == pieces.encode(LINES[0]).ids.tolist()


def test_nothing_to_learn_from_and_too_few_pieces_are_refused():
    with pytest.raises(ValueError, match="no lyrics"):
        SentencePieceVocabulary.train(["", " \n"])
    with pytest.raises(ValueError, match="256 tokens are bytes"):
        SentencePieceVocabulary.train(TEXTS, 200)
