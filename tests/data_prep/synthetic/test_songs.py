"""Synthetic songs: reproducible, set by the rule, sung at the times of the words, with distinguishable artists and genres."""

from __future__ import annotations

import json
import wave
from itertools import pairwise

import numpy as np
import pytest

from data_prep.align import Pace, place, syllables
from data_prep.errors import UserError
from data_prep.synthetic.annotation import WORDS, annotate_song, set_lyrics
from data_prep.synthetic.band import ARTISTS, GENRES, NEWCOMER, PLACES, stereo_gains, write_score
from data_prep.synthetic.instruments import hertz
from data_prep.synthetic.songs import LOUDNESS, SyntheticSong, corpus_song, make_corpus, make_song, sing_lines
from data_prep.synthetic.voice import Syllable, sing, split_syllables

RATE = 22050
PAIRS = [(artist.name, genre.name) for artist in ARTISTS for genre in GENRES]


def rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def spectrum(sound: np.ndarray, points: int = 2048) -> np.ndarray:
    """Mean magnitudes (points / 2 + 1,) of half-overlapping windows."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, points)[:: points // 2]
    return np.abs(np.fft.rfft(windows * np.hanning(points))).mean(0)


@pytest.fixture(scope="module")
def songs() -> list[SyntheticSong]:
    return [make_song(100 + i, artist=artist, genre=genre) for i, (artist, genre) in enumerate(PAIRS)]


def test_a_song_is_a_pure_function_of_its_seed():
    song, again, other = make_song(3, seconds=6), make_song(3, seconds=6), make_song(4, seconds=6)
    assert song.audio.tobytes() == again.audio.tobytes()
    assert (song.lyrics, song.words, song.artist, song.genre) == (again.lyrics, again.words, again.artist, again.genre)
    assert song.audio.tobytes() != other.audio.tobytes()
    named = make_song(3, seconds=6, artist=song.artist, genre=song.genre, lyrics=song.lyrics)
    assert named.audio.tobytes() == song.audio.tobytes()  # what was drawn can be asked for


def test_songs_are_neither_clipped_nor_broken_nor_ever_silent(songs: list[SyntheticSong]):
    for song in songs:
        assert song.audio.dtype == np.float32 and song.audio.shape == (1, 20 * RATE)
        sound = song.audio[0]
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() < 0.95
        assert 0.12 < rms(sound) < 0.18
        frames = sound[: len(sound) // 220 * 220].reshape(-1, 220)  # 10 ms
        assert np.sqrt((frames**2).mean(1)).min() > 3e-4
        assert np.abs(np.diff(sound)).max() < 0.6  # no clicks
        power = spectrum(sound) ** 2
        frequency = np.fft.rfftfreq(2048, 1 / RATE)
        assert 400 < (power * frequency).sum() / power.sum() < 1500
        assert power[frequency > 6000].sum() < 0.01 * power.sum()


def test_words_are_the_lyrics_set_a_syllable_a_beat_with_lines_on_bars(songs: list[SyntheticSong]):
    for song in songs:
        genre = next(g for g in GENRES if g.name == song.genre)
        assert [word for word, _, _ in song.words] == song.lyrics.split()
        left, lines = list(song.words), []
        for line in song.lyrics.splitlines():
            lines.append([left.pop(0) for _ in line.split()])
        assert lines[0][0][1] == pytest.approx(genre.intro * genre.bar * genre.beat)
        for line in lines:
            bars = line[0][1] / genre.beat / genre.bar
            assert bars == pytest.approx(round(bars))
            for (_, _, end), (_, start, _) in pairwise(line):
                assert end == pytest.approx(start)
            for word, start, end in line:
                assert end - start == pytest.approx(len(split_syllables(word)) * genre.beat)
        for before, after in pairwise(lines):
            rest = (after[0][1] - before[-1][2]) / genre.beat
            assert 1 - 1e-6 <= rest < 1 + genre.bar
        assert song.words[-1][2] <= 20.0
        assert 0.55 < sum(end - start for _, start, end in song.words) / 20 < 0.75


def test_syllables_are_groups_of_vowels_and_join_to_the_word():
    cases = {"golden": 2, "river": 2, "moon": 1, "away": 2, "you": 1, "hm": 1, "I'm": 1, "Summer!": 2, "123": 1}
    for word, count in cases.items():
        assert len(split_syllables(word)) == count
        assert "".join(split_syllables(word)) == word
    assert split_syllables("golden") == ("gol", "den")
    vocabulary = [word for words in WORDS.values() for word in words]
    assert all(3 <= len(word) <= 6 and len(split_syllables(word)) <= 2 for word in vocabulary)


def test_plain_lyrics_are_placed_where_a_made_song_sings_them(songs: list[SyntheticSong]):
    for song in songs:
        genre = next(g for g in GENRES if g.name == song.genre)
        pace = Pace(beat=genre.beat, bar=genre.bar, lead=genre.intro * genre.bar * genre.beat)
        placed = place(song.lyrics, 20.0, pace)
        assert [time.text for time in placed] == [word for word, _, _ in song.words]
        assert np.allclose([time[1:] for time in placed], [times for _, *times in song.words])
    for word in ("déjà", "Straße", "夜の川", "strengths", "rock'n'roll", "x" * 30):
        assert len(split_syllables(word)) == syllables(word)
        assert "".join(split_syllables(word)) == word


def test_the_voice_sounds_in_its_words_and_nowhere_else_and_is_louder_than_the_band():
    for artist, genre in zip(ARTISTS, (*GENRES, GENRES[0]), strict=True):
        score = write_score(artist, genre, 20.0, np.random.default_rng(5))
        lines = set_lyrics("the golden river will turn\nsing with the moon", score, 20.0)
        voice = sing_lines(lines, artist.throat, 20 * RATE, RATE)
        sung = np.zeros(len(voice), bool)
        for word in (word for line in lines for word in line):
            sung[round(word.start * RATE) : round(word.end * RATE)] = True
            assert rms(voice[round(word.start * RATE) : round(word.end * RATE)]) > 0.4
        assert rms(voice[~sung]) < 0.01
        band = make_song(9, artist=artist.name, genre=genre.name, lyrics="").audio
        assert 4.5 < 20 * np.log10(LOUDNESS * rms(voice[sung]) / rms(band)) < 7.5


def test_the_singer_stays_between_110_and_330_hertz_and_in_the_scale():
    for artist in (*ARTISTS, NEWCOMER):
        for genre in GENRES:
            for seed in range(8):
                score = write_score(artist, genre, 20.0, np.random.default_rng(seed))
                assert 110 <= hertz(min(score.tune)) and hertz(max(score.tune)) <= 330
                assert {(pitch - score.tonic) % 12 for pitch in score.tune} <= set(artist.scale)
                assert len(set(score.tune)) >= 4  # a tune, not a drone


def test_every_vowel_has_its_own_sound_at_any_pitch():
    def sound(vowel: str, pitch: int) -> np.ndarray:
        bands = spectrum(sing([Syllable(vowel, pitch, 0.0, 0.6)], {0.6}, RATE)[1])[: 46 * 8].reshape(-1, 8).sum(1)
        return np.log(bands / bands.sum() + 1e-3)

    vowels = "aeiou"
    low, high = ({v: sound(v, pitch) for v in vowels} for pitch in (48, 53))
    for vowel in vowels:
        assert min(vowels, key=lambda other: np.abs(low[other] - high[vowel]).sum()) == vowel


def test_other_words_change_the_sound_only_where_they_are_sung():
    lines = ["the moon will sing now", "fly under the sun", "turn with the cold wind"]
    song = make_song(1, artist="Night Ferry", genre="waltz", lyrics="\n".join(lines))
    other = make_song(1, artist="Night Ferry", genre="waltz", lyrics="\n".join([lines[0], "call now for the moon", lines[2]]))
    assert [times for _, *times in song.words[:5]] == [times for _, *times in other.words[:5]]
    start, end = other.words[5][1], other.words[9][2]
    difference = (song.audio - other.audio)[0]
    first, last = round(start * RATE), round((end + 1.0) * RATE)  # a second for the room to fall quiet
    assert not difference[: first - 1].any()
    assert rms(difference[first:last]) > 0.05
    assert rms(difference[last:]) < 1e-3


def test_unknown_characters_are_silent_and_what_does_not_fit_is_not_sung():
    song = make_song(2, seconds=8, genre="ballad", lyrics="... 123 !?\nLa la la la la la la la la la la la la")
    assert song.words[:3] == make_song(2, seconds=8, genre="ballad", lyrics="... 123 !?").words
    assert 3 < len(song.words) < 16 and song.words[-1][2] <= 8
    silent = make_song(2, seconds=8, genre="ballad", lyrics="")
    lead = round(song.words[3][1] * RATE) - 1
    assert (song.audio == silent.audio)[0, :lead].all() and (song.audio != silent.audio)[0, lead:].any()


@pytest.mark.parametrize(("sample_rate", "seconds"), [(8000, 4.0), (44100, 3.0), (22050, 0.1)])
def test_any_rate_and_length_will_do(sample_rate: int, seconds: float):
    song = make_song(0, sample_rate=sample_rate, seconds=seconds, genre="ballad", lyrics="silver water")
    assert song.audio.shape == (1, round(seconds * sample_rate))
    assert np.isfinite(song.audio).all() and 0.01 < np.abs(song.audio).max() < 0.95


def features(song: SyntheticSong) -> tuple[np.ndarray, np.ndarray]:
    """Features of the artist (log spectrum in third octaves) and of the genre (autocorrelation of the onsets)."""
    power = spectrum(song.audio[0], 4096)
    edges = (60 * 2 ** (np.arange(22) / 3) / RATE * 4096).astype(int)
    timbre = np.log([power[a : b + 1].mean() for a, b in pairwise(edges)])
    frames = song.audio[0, : song.audio.size // 220 * 220].reshape(-1, 220)
    onsets = np.maximum(np.diff(np.log(1e-3 + (np.diff(frames, axis=1) ** 2).mean(1))), 0)
    onsets -= onsets.mean()
    rhythm = np.array([np.dot(onsets[:-lag], onsets[lag:]) for lag in range(20, 300)]) / np.dot(onsets, onsets)
    return timbre - timbre.mean(), rhythm


def nearest(known: np.ndarray, names: list[str], asked: np.ndarray) -> list[str]:
    """Each asked row's name, by the nearest mean of the known rows."""
    choices = sorted(set(names))
    means = np.stack([known[np.array(names) == name].mean(0) for name in choices])
    return [choices[int(i)] for i in np.argmin(((asked[:, None] - means) ** 2).sum(2), axis=1)]


def test_artists_and_genres_are_told_apart_in_songs_not_heard_before(songs: list[SyntheticSong]):
    known = songs + [make_song(i, artist=a, genre=g) for i, (a, g) in enumerate(PAIRS)]
    asked = [make_song(900 + i, artist=a, genre=g) for i, (a, g) in enumerate(PAIRS)]
    for which in ("artist", "genre"):
        column = 0 if which == "artist" else 1
        heard, new = (np.stack([features(song)[column] for song in some]) for some in (known, asked))
        names, truth = [getattr(song, which) for song in known], [getattr(song, which) for song in asked]
        right = np.mean([a == b for a, b in zip(nearest(heard, names, new), truth, strict=True)])
        assert right >= 0.9, which
        shuffles = [list(np.random.default_rng(i).permutation(names)) for i in range(20)]  # names that mean nothing
        lucky = [[a == b for a, b in zip(nearest(heard, names, new), truth, strict=True)] for names in shuffles]
        assert np.mean(lucky) < 0.5, which


def test_a_song_is_the_audio_of_its_annotation():
    for seed in range(3):
        song = make_song(seed, seconds=(1.0, 2.0), genre="waltz")
        assert song.annotation == annotate_song(seed, seconds=(1.0, 2.0), genre="waltz")
        assert song.audio.shape[1] == round(song.annotation.seconds * RATE)


def test_stereo_is_the_same_song_alike_loud_on_both_sides_that_are_alike_but_not_equal():
    sides, correlations = [], []
    for i, (artist, genre) in enumerate(PAIRS):
        song = make_song(i, seconds=12.0, channels=2, artist=artist, genre=genre)
        assert song.annotation == annotate_song(i, seconds=12.0, artist=artist, genre=genre)
        assert song.audio.shape == (2, 12 * RATE) and np.abs(song.audio).max() < 0.95
        sides.append([rms(side) for side in song.audio])
        correlations.append(np.corrcoef(song.audio)[0, 1])
    left, right = np.transpose(sides)
    assert np.abs(20 * np.log10(left / right)).max() < 1.0 and left.mean() == pytest.approx(right.mean(), rel=0.02)
    assert 0.6 < min(correlations) and max(correlations) < 0.9


def test_the_singer_is_in_the_middle_and_instruments_are_not():
    song, band = (make_song(5, seconds=8.0, channels=2, lyrics=lyrics) for lyrics in ("away", ""))
    begin = round(song.annotation.words[0].start * RATE)
    direct = np.s_[:, begin : begin + round(0.029 * RATE)]  # before the room answers
    left, right = (song.audio - band.audio)[direct]
    assert rms(left) > 0.01 and rms(left - right) < 0.01 * rms(left)
    left, right = band.audio[direct]
    assert rms(left - right) > 0.1 * rms(left)


def test_the_instruments_of_an_artist_keep_their_places_and_songs_differ_a_little():
    gains = [stereo_gains(np.random.default_rng(seed)) for seed in range(20)]
    for instrument, position in PLACES.items():
        left, right = np.transpose([each[instrument] for each in gains])
        assert left**2 + right**2 == pytest.approx(np.ones(20), rel=1e-5) and len(set(left)) == 20
        assert ((left > right).all() if position <= -0.3 else (left < right).all()) or abs(position) <= 0.1


def test_songs_have_their_own_lengths_between_the_shortest_and_the_longest_whoever_makes_them(tmp_path):
    corpus = make_corpus(tmp_path, 3, seed=5, seconds=(0.5, 4.0), workers=2)
    for index, row in enumerate(map(json.loads, (corpus / "songs.jsonl").read_text(encoding="utf-8").splitlines())):
        seed, artist, genre = corpus_song(index, 5)
        annotation = annotate_song(seed, seconds=(0.5, 4.0), artist=artist, genre=genre)
        with wave.open(str(corpus / row["path"])) as file:
            assert file.getnframes() == round(annotation.seconds * RATE) and file.getnchannels() == 1
        assert (row["artist"], row["genre"], row["lyrics"]) == (artist, genre, annotation.lyrics)


def test_a_stereo_corpus_has_two_channels(tmp_path):
    corpus = make_corpus(tmp_path, 1, seconds=0.5, channels=2, workers=1)
    with wave.open(str(corpus / "song_0000.wav")) as file:
        assert file.getnchannels() == 2


def test_a_corpus_is_the_same_bytes_whatever_the_workers(tmp_path):
    one = make_corpus(tmp_path / "one", 3, seed=5, seconds=4.0, workers=1)
    two = make_corpus(tmp_path / "two", 3, seed=5, seconds=4.0, workers=2)
    other = make_corpus(tmp_path / "other", 1, seed=6, seconds=4.0, workers=1)
    names = sorted(path.name for path in one.iterdir())
    assert names == ["song_0000.wav", "song_0001.wav", "song_0002.wav", "songs.jsonl"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert (one / names[0]).read_bytes() != (other / names[0]).read_bytes()
    assert (one / names[0]).read_bytes() != (one / names[1]).read_bytes()
    rows = [json.loads(line) for line in (one / "songs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in rows] == names[:3]
    assert all(set(row) == {"path", "artist", "genre", "lyrics", "words"} for row in rows)
    assert all([word for word, _, _ in row["words"]] == row["lyrics"].split() for row in rows)


def test_the_newcomer_plays_where_he_is_asked_for_and_nowhere_else(tmp_path):
    assert NEWCOMER.name not in {make_song(seed, seconds=0.1).artist for seed in range(40)}
    corpus = make_corpus(tmp_path, 4, seconds=0.5, artist=NEWCOMER.name, workers=1)
    rows = [json.loads(line) for line in (corpus / "songs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["artist"] for row in rows} == {NEWCOMER.name} and len({row["genre"] for row in rows}) == 3


def test_an_unknown_artist_or_genre_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="Copper Finch"):
        make_song(0, artist="Nobody")
    with pytest.raises(UserError, match="waltz"):
        make_song(0, genre="noise")


def test_a_song_has_one_channel_or_two():
    with pytest.raises(UserError, match="3 channels; expected 1"):
        make_song(0, channels=3)
