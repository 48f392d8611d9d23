"""`jukebox prepare`: write the tables of a data folder from a folder or a list of music."""

from __future__ import annotations


def prepare(
    source: tuple[str, ...], *, out: str, add: bool = False, min_seconds: float = 1.0, test_share: float = 0.1, seed: int = 0,
    workers: int = 0,
) -> None:  # fmt: skip
    """Read music and write manifest.parquet, refused.parquet and labels.json into a data folder.

    It reads a folder with its sub-folders, or a table (.csv, .tsv or .jsonl). Artist and genre of files in a folder are from
    their tags, lyrics from song.lrc or song.txt beside song.mp3, else from the tags. A table has the columns path, artist,
    genres, lyrics (text, or the name of a .txt or .lrc file) and, in jsonl, words ([[word, start, end], ...]). Every file is
    decoded: unreadable, truncated, too short, silent and non-finite files are skipped and listed with the reason. An
    interrupted run is resumed by the same command; under mpirun all ranks share the work.

    source: folder, .csv, .tsv or .jsonl with the music; or several
    out: data folder to write; a folder with songs of another source is not changed, unless --add is given
    add: keep the songs of --out, and add new ones
    min_seconds: shorter files are skipped, seconds
    test_share: share of the songs held out for testing, 0 to 1
    seed: another seed holds out other songs
    workers: decoding processes, 0: one per core, at most 8
    """
    from pathlib import Path

    from data_prep.errors import UserError, keeping
    from data_prep.manifest import JOURNAL
    from data_prep.manifest import prepare as write_tables
    from data_prep.pool import mpi_comm
    from launch.cluster.ranks import rank_and_ranks, variables

    if (ranks := rank_and_ranks()[1]) > 1 and mpi_comm() is None:
        raise UserError(
            f"{variables()} show that this is one of {ranks} ranks, which cannot share this without MPI: unset both to "
            f"prepare in one process, or start it with mpirun -n {ranks} (or jukebox launch --with mpich or openmpi), with "
            f"mpi4py installed"
        )
    journal = Path(out) / JOURNAL
    with keeping(
        f"{out} keeps the decoded songs: the same command goes on", lambda: journal.is_file() and journal.stat().st_size
    ):
        prepared = write_tables(
            source, out, add=add, min_seconds=min_seconds, test_share=test_share, seed=seed, workers=workers
        )
    if prepared is not None:
        print(f"{prepared}\nwrote {prepared.folder / 'manifest.parquet'}")
