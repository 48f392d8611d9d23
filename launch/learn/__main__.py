"""`python -m launch.learn STEP`: the steps of the recipes that are not verbs."""

import sys

from launch.cli.commands import main

STEPS = {
    "figures": ("launch.learn.evidence:figures", "measure a model on the held-out tracks of its data"),
    "ship": ("launch.learn.ship:ship", "a trained model as the one that comes with the package"),
    "tracks": ("launch.learn.music:tracks", "the table of the music that several models are trained on"),
    "gather": ("launch.learn.evidence:gather", "the figures of several models as recordings.json and recordings.csv"),
}

if __name__ == "__main__":
    sys.exit(main(verbs=STEPS))
