"""`python -m launch.live COMMAND`: the steps of the recipe of the latent GAN that are not verbs."""

import sys

from launch.cli.commands import main

STEPS = {"session": ("launch.live.session:session", "play live music to a listener who changes its controls, and measure it")}

if __name__ == "__main__":
    sys.exit(main(verbs=STEPS))
