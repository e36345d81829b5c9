"""Measured constants of a GPU, each with the question that it answers: `python -m bench.constants --help`."""
