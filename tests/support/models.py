"""The table of models: every output with every option, small enough to enumerate. The laws and other tests share it."""

import copy
import functools
import itertools
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from engines import ENGINES, Engine, marks_of
from scipy.stats import chi2
from torch import Tensor

from made_fast import MADE, backends
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.kinds import Mixed, make_output
from made_fast.outputs.mixtures import MixtureOfLogistics, MixtureOfNormals
from made_fast.outputs.normal import Normal
from made_fast.outputs.output import Output
from made_fast.requests.conditions import Between

SINGLE, DOUBLE = torch.float32, torch.float64
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

ACTIVATIONS = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid")

SINGLE_OPTIONS: dict[str, dict[str, Any]] = {
    "natural": {"hidden_features": (24, 16)},
    "reversed": {"hidden_features": (20,), "order": "reversed"},
    "random": {"hidden_features": (20, 20), "order": "random", "seed": 3},
    "raster": {"hidden_features": (16,), "order": "raster"},
    "columns": {"hidden_features": (16,), "order": "columns"},
    "explicit": {"hidden_features": (17, 19), "order": (4, 0, 8, 2, 6, 1, 7, 3, 5)},
    "deep": {"hidden_features": (16, 24, 16)},
    "narrow": {"hidden_features": (3,), "order": "random"},
    "narrow_deep": {"hidden_features": (4, 2, 5)},
    "one_unit": {"hidden_features": (1,)},
    "biases": {"hidden_features": ()},
    "belief_network": {"hidden_features": (), "direct": True, "order": "random"},
    "direct": {"hidden_features": (12,), "direct": True},
    "direct_deep": {"hidden_features": (12, 12, 12), "direct": True, "order": "reversed"},
    "residual": {"hidden_features": (16, 16, 16), "residual": True},
    "residual_narrow": {"hidden_features": (4, 4), "residual": True, "order": "random"},
    "context": {"hidden_features": (20, 20), "context_features": 3},
    "context_narrow": {"hidden_features": (4,), "context_features": 2},
    "context_biases": {"hidden_features": (), "context_features": 2},
    "context_belief_network": {"hidden_features": (), "context_features": 2, "direct": True},
    "residual_direct_context": {"hidden_features": (16, 16), "residual": True, "direct": True, "context_features": 3},
    "random_degrees": {"hidden_features": (24, 24), "degrees": "random", "seed": 5},
    "random_degrees_context": {"hidden_features": (24, 24), "degrees": "random", "context_features": 2},
    "random_degrees_residual": {"hidden_features": (24, 24), "degrees": "random", "residual": True, "order": "random"},
    **{name: {"hidden_features": (16, 16), "activation": name, "direct": True} for name in ACTIVATIONS},
}

ENSEMBLES: dict[str, dict[str, Any]] = {
    "orders": {"hidden_features": (10,), "num_masks": 3, "shuffle": "order", "direct": True},
    "both": {"hidden_features": (10, 9), "num_masks": 3, "shuffle": "both"},
    "connectivity": {"hidden_features": (16, 9), "num_masks": 2, "shuffle": "connectivity", "order": "random"},
    "conditioned": {
        **{"hidden_features": (12, 12), "residual": True, "direct": True, "context_features": 2},
        **{"num_masks": 3, "mask_conditioning": True},
    },
    "endless": {"hidden_features": (16,), "num_masks": 0, "context_features": 1, "activation": "gelu"},
    "ensemble_belief_network": {"hidden_features": (), "direct": True, "num_masks": 4},
}
OPTIONS = {**SINGLE_OPTIONS, **ENSEMBLES}
QUICK_OPTIONS = {
    *("natural", "random", "one_unit", "belief_network", "direct_deep", "gelu", "columns", "explicit"),
    *("residual_direct_context", "random_degrees_residual", "context_biases"),
}
SOME_OPTIONS = ("natural", "random", "direct", "residual", "context", "belief_network", "biases", "orders", "both")


@dataclass(frozen=True)
class Case:
    """One model of the table: an output with an option."""

    output: str
    option: str

    @property
    def name(self) -> str:
        return f"{self.output}-{self.option}"

    @property
    def features(self) -> int:
        """D; nine binary variables can be enumerated, and are an image for the orders of images."""
        return 9 if self.output == "bernoulli" else FEATURES

    @property
    def quick(self) -> bool:
        """Whether it is one of the few that are always tested."""
        return self.name in QUICK

    def make(self, dtype: torch.dtype = DOUBLE, features: int | None = None, **more: Any) -> MADE:
        return made(self.output, self.option, dtype, features or self.features, **more)


QUICK = {
    *(f"bernoulli-{option}" for option in (*QUICK_OPTIONS, "both", "endless", "conditioned")),
    *("spin-direct", "categorical-random", "ragged-context", "embedding-residual", "mixture_of_logistics-natural"),
    *("mixed_finite-both", "normal-context", "mixture_of_normals-orders", "mixed-residual", "mixed-context"),
}
CASES = {
    case.name: case
    for case in (
        *(Case("bernoulli", option) for option in OPTIONS),
        *(Case(output, option) for output in OUTPUTS if output != "bernoulli" for option in SOME_OPTIONS),
    )
}
# Of these the interpreter of GPU kernels, which takes seconds for each, draws quickly enough.
INTERPRETED = {"bernoulli-residual_direct_context", "mixed_finite-both", "mixed-context"}


def _options(option: str, features: int) -> dict[str, Any]:
    found = OPTIONS[option]
    if isinstance(found.get("order"), tuple):
        found = {**found, "order": tuple(each for each in found["order"] if each < features)}
    return found


@functools.cache
def _state(output: str, option: str, features: int) -> dict[str, Tensor]:
    model = MADE(features, output=_output(output, features), **_options(option, features))
    generator = torch.Generator().manual_seed(zlib.crc32(f"{output} {option} {features}".encode()))
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 2.0 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.state_dict()


def _output(name: str, features: int) -> Output:
    if features >= FEATURES:
        return OUTPUTS[name]
    first = list(OUTPUTS[name].conditionals(FEATURES))[:features]
    if name in ("ragged", "embedding"):
        return Categorical([each.size for each in first], embedding=2 if name == "embedding" else 0)
    return Mixed(OUTPUTS[name].parts[:features]) if isinstance(OUTPUTS[name], Mixed) else OUTPUTS[name]


def made(
    output: str, option: str = "natural", dtype: torch.dtype = DOUBLE, features: int = FEATURES, **more: Any
) -> MADE:
    """A model with weights that make the variables depend; a new one each time, with the same weights."""
    model = MADE(features, output=_output(output, features), **{**_options(option, features), **more})
    model.load_state_dict(_state(output, option, features))
    return model.to(dtype).eval()


def masks_of(model: MADE) -> list[int]:
    """Some masks of a model: the only one, or the first two and the last."""
    if model.ensemble is None:
        return [0]
    return sorted({0, 1, 40 if model.num_masks == 0 else model.num_masks - 1})


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


def cases_of(outputs: Iterable[str] = OUTPUTS, options: Iterable[str] = SOME_OPTIONS) -> list[Case]:
    """Each of these outputs with each of these options."""
    return [Case(*pair) for pair in itertools.product(outputs, options)]


def drawn_by(
    *features: str,
    cases: Iterable[Case] = CASES.values(),
    quick: Collection[str] = QUICK,
    interpreted: Collection[str] = INTERPRETED,
    triton: bool = True,
) -> Any:
    """Runs a test for ``backend`` and ``case`` of every pair that is claimed; slow where the case is not a quick one.

    Args:
        features: what the backend must be able to do meanwhile.
        cases: of which models.
        quick: names of those that are always tested.
        interpreted: the same for kernels under Triton's interpreter.
        triton: whether these are tested at all.
    """
    found = []
    for backend, case in itertools.product(backends.BACKENDS, cases):
        if claims(backend, case.output, *features) and (triton or backend.name != "triton"):
            fast = case.name in (interpreted if backend.name == "triton" else quick)
            marks = marks_of(backend.name) + ([] if fast else [pytest.mark.slow])
            found.append(pytest.param(backend.name, case, id=f"{backend.name}-{case.name}", marks=marks))
    return pytest.mark.parametrize(("backend", "case"), found)


def engines_of(backend: str) -> dict[str, Engine]:
    """The ways in which a backend draws on the CPU, by name."""
    return {
        name: engine for name, engine in ENGINES.items() if engine.backend.name == backend and engine.device == "cpu"
    }


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
            wanted[variable] = Between(float(values[len(values) // 2]), float(values[-1]))
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
