"""From files to tensors: audio, tables of songs, labels, lyric times, tables of codes, training windows.

Knows files, text and tables; imports none of the other packages, and not torch. Heavy libraries (soundfile, soxr,
pyarrow, mutagen, av, mpi4py) are imported inside the functions that need them.
"""
