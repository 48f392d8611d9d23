"""Conditions to codes: the models that write sequences. Knows codes, labels and lyrics; never audio files."""
