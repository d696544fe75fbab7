"""Samplers of a program or of an ensemble of programs, the face that they share, and estimates with their errors."""

from made_fast.sampling.draws import Draws, ScoredSamples, WeightedSamples
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.sampling.estimates import Estimate
from made_fast.sampling.sampler import Sampler
from made_fast.sampling.sharding import sample_rows

__all__ = [
    "Draws",
    "EnsembleSampler",
    "Estimate",
    "Sampler",
    "ScoredSamples",
    "WeightedSamples",
    "sample_rows",
]
