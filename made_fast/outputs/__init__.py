"""The distribution of one variable given its parameters, and which variable has which: the definition, in torch.

To add one: a file with its conditional and its output class, and a row in ``OUTPUTS`` below. Engines that draw it know it by
a number in ``codes.py`` and say so in their row of ``made_fast.backends``. The contract tests find it by the table.
"""

from made_fast.outputs.binary import Bernoulli, BernoulliConditional, Spin, SpinConditional
from made_fast.outputs.categorical import Categorical, CategoricalConditional
from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.kinds import OUTPUTS, Mixed, describe, make_output
from made_fast.outputs.mixtures import (
    MixtureOfLogistics,
    MixtureOfLogisticsConditional,
    MixtureOfNormals,
    MixtureOfNormalsConditional,
)
from made_fast.outputs.normal import Normal, NormalConditional
from made_fast.outputs.output import Output, log_prob
from made_fast.outputs.own import Own
from made_fast.outputs.point import Point, PointConditional
from made_fast.outputs.rules import choose_category

OUTPUTS.update(
    {each.name: each for each in (Bernoulli, Spin, Categorical, Normal, MixtureOfNormals, MixtureOfLogistics, Mixed)}
)

__all__ = [
    "OUTPUTS",
    "PLAIN",
    "Bernoulli",
    "BernoulliConditional",
    "Categorical",
    "CategoricalConditional",
    "Code",
    "Conditional",
    "Decoding",
    "Encoding",
    "Mixed",
    "MixtureOfLogistics",
    "MixtureOfLogisticsConditional",
    "MixtureOfNormals",
    "MixtureOfNormalsConditional",
    "Normal",
    "NormalConditional",
    "Output",
    "Own",
    "Point",
    "PointConditional",
    "Spin",
    "SpinConditional",
    "choose_category",
    "describe",
    "log_prob",
    "make_output",
]
