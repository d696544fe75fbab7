"""Benchmarks: ``python -m benchmarks`` lists them; README.md in this folder says how everything is measured."""


class WrongResult(Exception):
    """What was to be timed is wrong: nothing is timed."""
