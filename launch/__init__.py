"""Machines and people: the command line, the training loop and the programs behind every verb. Nobody imports it."""
