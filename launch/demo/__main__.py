"""`python -m launch.demo COMMAND`: the verbs, and further steps of the demo and of the recipes."""

import sys

from launch.cli.commands import VERBS, main

STEPS = {
    "recogniser": ("launch.demo.figures:recogniser", "train the recogniser of artist, genre and sung characters"),
    "songs": ("launch.demo.songs:songs", "sample the songs of a seed of the evidence"),
    "table": ("launch.demo.figures:table", "measure runs beside held-out songs and controls"),
    "figures": ("launch.demo.evidence:figures", "measure the songs of a seed of the evidence"),
}

if __name__ == "__main__":
    sys.exit(main(verbs=VERBS | STEPS))
