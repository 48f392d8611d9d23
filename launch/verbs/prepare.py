"""`jukebox prepare`: a folder of music, or a list of it, becomes tables that the other verbs read."""

from __future__ import annotations


def prepare(
    source: tuple[str, ...], *, out: str, add: bool = False, min_seconds: float = 1.0, test_share: float = 0.1, seed: int = 0,
    workers: int = 0,
) -> None:  # fmt: skip
    """Read music and write manifest.parquet, refused.parquet and labels.json into a data folder.

    Takes a folder with its sub-folders (artist and genre from the files' tags, lyrics from song.lrc or song.txt beside
    song.mp3, else from the tags), or a .csv, .tsv or .jsonl with the columns path, artist, genres, lyrics (text, or the name
    of a .txt or .lrc file) and, in jsonl, words ([[word, start, end], ...]). Every file is decoded: what is unreadable,
    truncated, too short, silent or non-finite is refused and listed with its reason. An interrupted run goes on where
    it was; under mpirun all ranks share the work.

    source: folder, .csv, .tsv or .jsonl with the music; or several
    out: data folder to write; one that holds the songs of another source is left as it is, unless --add is given
    add: keep the songs that --out holds already, and add those that are not among them
    min_seconds: shorter files are refused, seconds
    test_share: share of the songs held out for testing, 0 to 1
    seed: another seed holds out other songs
    workers: processes that decode, 0: one a core, at most 8
    """
    from pathlib import Path

    from data_prep.errors import UserError, keeping
    from data_prep.manifest import JOURNAL
    from data_prep.manifest import prepare as write_tables
    from data_prep.pool import mpi_comm
    from launch.cluster.ranks import rank_and_ranks, variables

    if (ranks := rank_and_ranks()[1]) > 1 and mpi_comm() is None:
        raise UserError(
            f"{variables()} say that this is one of {ranks} ranks, which cannot share this without MPI: unset both to prepare in one "
            f"process, or start it with mpirun -n {ranks} (or jukebox launch --with mpich or openmpi), with mpi4py installed"
        )
    journal = Path(out) / JOURNAL
    with keeping(
        f"{out} keeps the songs that are read: the same command goes on", lambda: journal.is_file() and journal.stat().st_size
    ):
        prepared = write_tables(
            source, out, add=add, min_seconds=min_seconds, test_share=test_share, seed=seed, workers=workers
        )
    if prepared is not None:
        print(f"{prepared}\nwrote {prepared.folder / 'manifest.parquet'}")
