"""The command line: `main` runs one verb, `program` is the console script."""

from launch.cli.commands import main, program

__all__ = ["main", "program"]
