"""From files to tensors: audio, tables of songs, labels, lyric times, tables of codes, training windows.

It handles files, text and tables. It imports none of the other packages, and not torch. Heavy libraries (soundfile, soxr,
pyarrow, mutagen, av, mpi4py) are imported inside the functions that need them.
"""
