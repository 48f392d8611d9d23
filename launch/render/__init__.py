"""Tokens rendered to audio by several methods, with the cost of each."""
