"""Machines and people: the command line, the trainer and the programs behind every verb. Nobody imports it."""
