"""Models of every output distribution and with every option, small enough to enumerate; tests of several files share them."""

import copy
import functools
import itertools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from conftest import ENGINES, Engine
from scipy.stats import chi2
from torch import Tensor

from made_fast import MADE, backends
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed, make_output
from made_fast.outputs.mixtures import MixtureOfLogistics, MixtureOfNormals
from made_fast.outputs.normal import Normal
from made_fast.outputs.output import Output
from made_fast.requests.conditions import Between

FEATURES = 4
FALSE_ALARM = 1e-5  # how often a correct sampler fails one of the tests of chance, over all seeds; the seed is fixed

FINITE: dict[str, Output] = {
    "bernoulli": make_output("bernoulli"),
    "spin": make_output("spin"),
    "categorical": Categorical(3),
    "ragged": Categorical((2, 5, 1, 3)),
    "embedding": Categorical((4, 3, 2, 3), embedding=2),
    "mixture_of_logistics": MixtureOfLogistics(2, levels=8),
    "mixed_finite": Mixed(["spin", Categorical(3, embedding=2), MixtureOfLogistics(2, levels=5), Categorical(4)]),
}
REAL: dict[str, Output] = {  # with floors that fp32 can tell apart
    "normal": Normal(floor=0.1),
    "mixture_of_normals": MixtureOfNormals(3, floor=0.1),
    "mixed": Mixed([(Categorical(3), 1), Normal(floor=0.1), ("bernoulli", 1), (MixtureOfNormals(2, floor=0.1), 1)]),
}
OUTPUTS = {**FINITE, **REAL}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"hidden_features": (12, 10)},
    "random": {"hidden_features": (12,), "order": "random", "seed": 3},
    "direct": {"hidden_features": (9,), "direct": True, "order": "reversed"},
    "residual": {"hidden_features": (8, 8), "residual": True, "activation": "gelu"},
    "context": {"hidden_features": (8,), "context_features": 2, "direct": True, "order": "random"},
    "belief_network": {"hidden_features": (), "direct": True},
    "biases": {"hidden_features": ()},
    "orders": {"hidden_features": (10,), "num_masks": 3, "shuffle": "order", "direct": True},
    "both": {"hidden_features": (10, 9), "num_masks": 3, "shuffle": "both"},
}


@functools.cache
def _state(output: str, option: str, features: int) -> dict[str, Tensor]:
    model = MADE(features, output=_output(output, features), **OPTIONS[option])
    generator = torch.Generator().manual_seed(zlib.crc32(f"{output} {option} {features}".encode()))
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 2.0 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.state_dict()


def _output(name: str, features: int) -> Output:
    if features == FEATURES:
        return OUTPUTS[name]
    first = list(OUTPUTS[name].conditionals(FEATURES))[:features]
    if name in ("ragged", "embedding"):
        return Categorical([each.size for each in first], embedding=2 if name == "embedding" else 0)
    return Mixed(OUTPUTS[name].parts[:features]) if isinstance(OUTPUTS[name], Mixed) else OUTPUTS[name]


def made(output: str, option: str = "plain", dtype: torch.dtype = torch.float64, features: int = FEATURES) -> MADE:
    """A model with weights that make the variables depend; a new one each time, with the same weights."""
    model = MADE(features, output=_output(output, features), **OPTIONS[option])
    model.load_state_dict(_state(output, option, features))
    return model.to(dtype).eval()


def context_of(model: MADE, rows: int) -> Tensor | None:
    """(rows, C), or None for a model without context."""
    if not model.context_features:
        return None
    drawn = torch.randn(rows, model.context_features, generator=torch.Generator().manual_seed(rows))
    return drawn.to(next(model.parameters()))


def states_of(model: MADE) -> Tensor:
    """All values that a model of finite variables can take, fp64 (S, D)."""
    return torch.cartesian_prod(*model.output.values(model.features)).reshape(-1, model.features)


@torch.no_grad()
def enumerated(model: MADE, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All states (S, D) and their log-probabilities (S,), fp64; context (1, C)."""
    states = states_of(model)
    exact = made_exact(model)
    return states, exact.log_prob(states, None if context is None else context.double())


def made_exact(model: MADE) -> MADE:
    """The same model in fp64."""
    return copy.deepcopy(model).double()


def valid(output: str, rows: int, seed: int = 0, features: int = FEATURES) -> Tensor:
    """Values (rows, D), fp64, that a model of this output can take."""
    generator, columns = torch.Generator().manual_seed(seed), []
    for conditional in _output(output, features).conditionals(features):
        values = conditional.values()
        if values is None:
            columns.append(torch.randn(rows, generator=generator, dtype=torch.float64))
        else:
            columns.append(values[torch.randint(len(values), (rows,), generator=generator)])
    return torch.stack(columns, dim=1)


def p_value(x: Tensor, states: Tensor, probabilities: Tensor) -> float:
    """Of samples (n, D) against a distribution over states (S, D), by chi-square; cells expected below 5 are pooled."""
    place = {tuple(state): number for number, state in enumerate(states.tolist())}
    unique, counts = x.double().unique(dim=0, return_counts=True)
    observed = torch.zeros(len(states), dtype=torch.float64)
    for state, count in zip(unique.tolist(), counts.tolist(), strict=True):
        observed[place[tuple(state)]] = count
    expected = probabilities * len(x)
    if bool((observed[expected == 0] > 0).any()):
        return 0.0
    rare = expected < 5
    pooled = [torch.cat([each[~rare], each[rare].sum(0, keepdim=True)]) for each in (observed, expected)]
    kept = pooled[1] > 0
    statistic = ((pooled[0] - pooled[1]) ** 2)[kept].div(pooled[1][kept]).sum()
    return float(chi2.sf(float(statistic), max(1, int(kept.sum()) - 1)))


def codes_of(output: str) -> set[str]:
    """Names of the conditionals of an output, as the table of backends has them."""
    return {each.name for each in OUTPUTS[output].conditionals(FEATURES)}


def claims(backend: backends.Backend, output: str, *features: str) -> bool:
    """Whether a backend that can be used here says that it draws this output, and can do these things meanwhile."""
    dtype = backend.dtypes[0] if backend.dtypes else torch.float32
    asked: dict[str, Any] = {"outputs": codes_of(output), "features": features}
    return backends.why_not(backend, backends.Needs(torch.device("cpu"), dtype, **asked)) is None


def drawn_by(*features: str, outputs: Iterable[str] = OUTPUTS, options: Sequence[str] = ("plain",)) -> list[Any]:
    """Parameters (backend, output, option) of every pair that is claimed; interpreted kernels take one option, the first."""
    return [
        pytest.param(backend.name, output, option, id=f"{backend.name}-{output}-{option}")
        for backend, output in itertools.product(backends.BACKENDS, outputs)
        if claims(backend, output, *features)
        for option in (options[:1] if backend.name == "triton" else options)
    ]


def engines_for(*features: str, outputs: Iterable[str] = OUTPUTS) -> list[Any]:
    """Parameters (engine, output) of every pair that is claimed, on the CPU."""
    return [
        pytest.param(engine, output, id=f"{name}-{output}")
        for (name, engine), output in itertools.product(ENGINES.items(), outputs)
        if engine.device == "cpu" and claims(engine.backend, output, *features)
    ]


def dtypes_of(backend: str | Engine) -> list[torch.dtype]:
    """fp32 and fp64 where a backend has them."""
    name = backend if isinstance(backend, str) else backend.backend.name
    row = next(each for each in backends.BACKENDS if each.name == name)
    return [dtype for dtype in (torch.float32, torch.float64) if not row.dtypes or dtype in row.dtypes]


Wanted = Between | range | set[float] | list[float]


def some_allowed(output: str, features: int = FEATURES) -> dict[int, Wanted]:
    """A query that leaves something to most variables: an open range, a set, one value; the second may be anything."""
    wanted: dict[int, Wanted] = {}
    for variable, conditional in enumerate(_output(output, features).conditionals(features)):
        values = conditional.values()
        if variable == 1:
            continue
        if values is None:
            wanted[variable] = (Between(None, 0.5), Between(), Between(-1.0, 1.0), Between(low=-0.25))[variable]
        elif variable == 0:
            wanted[variable] = Between(low=float(values[len(values) // 2]))
        else:
            wanted[variable] = {float(values[0]), float(values[-1])} if variable == 2 else values[-1:].tolist()
    return wanted


def inside(states: Tensor, allowed: dict[int, Wanted]) -> Tensor:
    """Which of some states (S, D) a query allows."""
    found = torch.ones(len(states), dtype=torch.bool)
    for variable, wanted in allowed.items():
        column = states[:, variable]
        if isinstance(wanted, Between):
            found &= column >= (-torch.inf if wanted.low is None else wanted.low)
            found &= column <= (torch.inf if wanted.high is None else wanted.high)
        else:
            found &= torch.isin(column, torch.tensor(list(wanted), dtype=column.dtype))
    return found
