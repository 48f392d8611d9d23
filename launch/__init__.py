"""Machines and people: the command line, the trainer and the programs of every verb. Nobody imports it."""
