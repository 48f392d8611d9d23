"""The command line, the trainer and the programs of every verb. No other package imports it."""
