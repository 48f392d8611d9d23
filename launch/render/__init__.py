"""Tokens rendered to audio in several ways, and what each costs."""
