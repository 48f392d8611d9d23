"""`python -m launch.cli VERB ..`: what the command `jukebox` does, also where it is not on the path."""

from launch.cli import program

program()
