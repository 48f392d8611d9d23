"""Read music files and their metadata: audio, tables of songs, labels, lyric times, tables of codes, training windows.

The package handles files, text and tables. It imports neither torch nor another package of the project. Heavy libraries
(soundfile, soxr, pyarrow, mutagen, av, mpi4py) are imported inside the functions that need them.
"""
