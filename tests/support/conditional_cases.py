"""Every kind of conditional, for tests that take a ``conditional``, a ``finite`` or a ``real`` one and run once for each."""

import pytest
import torch
from torch import Tensor

from made_fast.outputs.binary import BernoulliConditional, SpinConditional
from made_fast.outputs.categorical import CategoricalConditional
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.mixtures import MixtureOfLogisticsConditional, MixtureOfNormalsConditional
from made_fast.outputs.normal import NormalConditional

CASES: dict[str, Conditional] = {
    "bernoulli": BernoulliConditional(),
    "spin": SpinConditional(),
    "categorical": CategoricalConditional(5),
    "one_category": CategoricalConditional(1),
    "embedded": CategoricalConditional(3, embedding=2),
    "normal": NormalConditional(),
    "normal_floor": NormalConditional(0.5),
    "mixture_of_normals": MixtureOfNormalsConditional(3),
    "one_normal": MixtureOfNormalsConditional(1),
    "mixture_of_logistics": MixtureOfLogisticsConditional(2, 8),
    "pixels": MixtureOfLogisticsConditional(5, 256),
    "two_levels": MixtureOfLogisticsConditional(1, 2, 0.1),
}
FINITE = {name: each for name, each in CASES.items() if each.size}
REAL = {name: each for name, each in CASES.items() if not each.size}
EDGES = torch.tensor([0, 1, 2**22, 2**23 - 1, 2**23, 2**23 + 1, 2**24 - 2, 2**24 - 1]).float() * 2.0**-24


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """For test files that import it."""
    for name, table in (("conditional", CASES), ("finite", FINITE), ("real", REAL)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, list(table.values()), ids=list(table))


def some_params(conditional: Conditional, *shape: int, scale: float = 1.5) -> Tensor:
    return scale * torch.randn(*shape, conditional.num_params, dtype=torch.float64)


def grid(count: int, draws: int) -> Tensor:
    """Uniforms (count**draws, draws) in the middle of equal cells: multiples of 2**-24, as the noise has them."""
    line = ((torch.arange(count) + 0.5) / count * 2**24).floor() * 2.0**-24
    return torch.cartesian_prod(*[line] * draws).reshape(-1, draws)


def log_probs_of(conditional: Conditional, params: Tensor) -> Tensor:
    """Of all values, (..., size)."""
    values = conditional.values()
    assert values is not None
    return conditional.log_prob(params[..., None, :], values.to(params.dtype).expand(*params.shape[:-1], -1))
