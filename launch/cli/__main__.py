"""`python -m launch.cli VERB ..`: the command `jukebox`, also if it is not on the path."""

from launch.cli import program

program()
