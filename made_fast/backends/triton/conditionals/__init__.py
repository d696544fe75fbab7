"""Draws of one variable in Triton: what own draws may use, and the draw itself in ``draw.py``."""

from made_fast.backends.triton.conditionals.weights import tail, uniform

__all__ = ["tail", "uniform"]
