"""Random models and requests: what the campaigns try on every backend, each a function of (seed, number)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from made_fast import MADE, Between, SumTo
from made_fast.backends.cpp import engine
from made_fast.outputs import Categorical, Mixed, MixtureOfLogistics, MixtureOfNormals, Normal
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.output import Output

ACTIVATIONS = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid")
HIDDEN = ((), (1,), (3,), (16,), (24, 16), (40,), (33, 17, 8), (8, 8), (16, 16, 16))
SIZES = (0, 1, 2, 3, 5, 8, 17, 33, 64, 97, 130, 500, 1000)  # of requests: none, odd, more than a tile
FIRST_ROWS = (0, 0, 1, 2**32 - 9, 2**40 + 3, 2**61)
SCALES = (0.5, 2.0, 2.0, 2.0, 8.0)  # of weights: flat, usual, steep
_LEAST_QUADS = engine.LEAST_QUADS
FLOOR = 0.1  # of scales: what fp32 can tell apart


@dataclass(frozen=True)
class Trial:
    """One request of one model.

    Attributes:
        number: of the trial.
        model: in evaluation mode.
        mask: of an ensemble, or None for all of it.
        count: rows asked for, for each context or condition.
        context: (N, C) or None.
        options: of ``sample``, seed included.
        tolerance: how far a uniform may lie from a threshold that rounding moved.
        text: the model and the request in words.
    """

    number: int
    model: MADE
    mask: int | None
    count: int
    context: Tensor | None
    options: dict[str, Any]
    tolerance: float
    text: str

    @property
    def masks(self) -> dict[str, Any]:
        """The argument that names the mask, for functions that take one."""
        return {} if self.mask is None else {"mask": self.mask}


def trial_of(seed: int, number: int) -> Trial:
    """The trial with this number; in every other one the compiled engine sums binary inputs in small models too."""
    engine.LEAST_QUADS = (1, _LEAST_QUADS)[number % 2]
    rng = random.Random(f"{seed} {number}")
    dtype = rng.choice((torch.float32, torch.float32, torch.float64))
    scale = rng.choice(SCALES)
    model, words, scale = random_model(rng, dtype, scale)
    mask = None if model.ensemble is None or rng.random() < 0.4 else rng.choice(list(model.ensemble.evaluated))
    count, context, options = random_request(rng, model)
    text = f"{words}, {dtype}, weights {scale}, mask {mask}, count {count}, {_shown(options)}"
    tolerance = 1e-5 * max(1.0, scale / 2) if dtype == torch.float32 else 1e-9
    return Trial(number, model, mask, count, context, options, tolerance, text)


def _shown(options: dict[str, Any]) -> str:
    shapes = {key: tuple(value.shape) if isinstance(value, Tensor) else value for key, value in options.items()}
    return ", ".join(f"{key} {value}" for key, value in shapes.items())


def random_model(rng: random.Random, dtype: torch.dtype, scale: float) -> tuple[MADE, str, float]:
    """A model with random options and weights, its description, and the scale of its weights.

    Real numbers that feed one another by steep weights grow without bound, until nothing is left to compare.
    """
    features = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 19, 70))
    name = rng.choice(list(OUTPUTS))
    hidden = rng.choice(HIDDEN)
    options = {
        "hidden_features": hidden,
        "order": rng.choice(("natural", "reversed", "random")),
        "activation": rng.choice(ACTIVATIONS),
        "direct": rng.random() < 0.4,
        "residual": bool(hidden) and len(set(hidden)) == 1 and rng.random() < 0.6,
        "degrees": rng.choice(("even", "random")),
        "context_features": rng.choice((0, 0, 0, 1, 3)),
        "num_masks": rng.choice((1, 1, 1, 1, 3, 0)) if features > 1 else 1,
        "seed": rng.randrange(1000),
    }
    if options["num_masks"] != 1:
        options["shuffle"] = rng.choice(("order", "connectivity", "both"))
        options["mask_conditioning"] = rng.random() < 0.3
    model = MADE(features, output=OUTPUTS[name](rng, features), **options)
    if any(not each.size for each in model.conditionals):
        scale = min(scale, 1.0)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    with torch.no_grad():
        for parameter in model.parameters():
            size = scale / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.25 * scale
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval(), f"{name} of {features}, {options}", scale


def _mixed(rng: random.Random, features: int) -> Output:
    kinds: list[Output | str] = [
        *("bernoulli", "spin", Categorical(rng.randint(1, 9)), Categorical(4, embedding=2), Normal(FLOOR)),
        *(MixtureOfNormals(2, FLOOR), MixtureOfLogistics(2, levels=7, floor=FLOOR)),
    ]
    return Mixed([rng.choice(kinds) for _ in range(features)])


OUTPUTS: dict[str, Callable[[random.Random, int], Output | str]] = {
    "bernoulli": lambda rng, features: "bernoulli",
    "spin": lambda rng, features: "spin",
    "categorical": lambda rng, features: Categorical(rng.choice((1, 2, 3, 5, 12, 40))),
    "ragged": lambda rng, features: Categorical([rng.randint(1, 17) for _ in range(features)]),
    "embedding": lambda rng, features: Categorical(rng.randint(1, 9), embedding=rng.randint(1, 3)),
    "normal": lambda rng, features: Normal(FLOOR),
    "mixture_of_normals": lambda rng, features: MixtureOfNormals(rng.choice((1, 2, 3, 9)), FLOOR),
    "mixture_of_logistics": lambda rng, features: MixtureOfLogistics(
        rng.choice((1, 2, 5)), levels=rng.choice((2, 5, 16, 64)), floor=FLOOR
    ),
    "mixed": _mixed,
}


def random_request(
    rng: random.Random, model: MADE, sizes: tuple[int, ...] = SIZES
) -> tuple[int, Tensor | None, dict[str, Any]]:
    """Rows, one of ``sizes``; contexts, and the other arguments of ``sample``."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    dtype = model.parameters_layer.weight.dtype
    contexts = rng.choice((1, 2, 3, 7)) if model.context_features else None
    conditions = rng.random() < 0.55
    many = contexts or (rng.choice((1, 2, 5)) if conditions and rng.random() < 0.6 else None)
    context = None
    if contexts:
        context = torch.randn(contexts, model.context_features, generator=generator).to(dtype)
    count = rng.choice(sizes if many is None else sizes[:8])
    options: dict[str, Any] = {"seed": rng.choice((0, 1, 2**32, rng.randrange(2**63)))}
    if conditions:
        options |= _conditions(rng, generator, model, many)
    else:
        options |= _decoding(rng, model)
    several = contexts or next((len(value) for value in options.values() if _of_rows(value)), 1)
    if rng.random() < 0.3:
        options["rows"] = torch.randint(2**62, (count * several,), generator=generator)
    else:
        options["first_row"] = rng.choice(FIRST_ROWS)
    return count, context, options


def _of_rows(value: Any) -> bool:
    """Whether an option has an entry for each of several rows."""
    return isinstance(value, list) or (isinstance(value, Tensor) and value.ndim == 2)


def _decoding(rng: random.Random, model: MADE) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {}
    options: dict[str, Any] = rng.choice(
        ({"temperature": 0.3}, {"temperature": 4.0}, {"greedy": True}, {"temperature": 1e-3}, {"temperature": 100.0})
    )
    if all(each.code.name == "CATEGORICAL" for each in model.conditionals):
        options = dict(options)
        if rng.random() < 0.5:
            options["top_k"] = rng.choice((1, 2, 5, 100))
        if rng.random() < 0.5:
            options["top_p"] = rng.choice((0.05, 0.5, 0.9, 1.0))
    return options


def _conditions(rng: random.Random, generator: torch.Generator, model: MADE, many: int | None) -> dict[str, Any]:
    """Given values, allowed values, sums, or some of them; what is given is allowed."""
    options: dict[str, Any] = {}
    kind = rng.choice(("given", "given", "allowed", "both"))
    features, rows = model.features, many or 1
    queries: list[dict[Any, Any]] = [{} for _ in range(rows)]
    if kind != "given":
        queries = [
            {d: _wish(rng, each) for d, each in enumerate(model.conditionals) if rng.random() < 0.5}
            for _ in range(rows)
        ]
    if kind != "allowed":
        columns = [random_values(each, rows, generator) for each in model.conditionals]
        given = torch.stack(columns, 1).to(model.parameters_layer.weight.dtype)
        observed = torch.rand(rows, features, generator=generator) < rng.choice((0.0, 0.3, 0.6, 1.0))
        if rng.random() < 0.4:  # a prefix that rows share
            order = model.order_of(0)
            observed = torch.zeros(rows, features, dtype=torch.bool)
            observed[:, order[: rng.randint(0, features)]] = True
        for row, query in enumerate(queries):
            observed[row, list(query)] = False
        one = many is None or (rng.random() < 0.3 and kind == "given")
        options |= {"given": given[0], "observed": observed[0]} if one else {"given": given, "observed": observed}
    own = random.Random()
    own.setstate(rng.getstate())  # sums came later: what was drawn without them is drawn as before
    if own.random() < 0.35 and _add_sums(own, model, queries, options):
        kind = "both"
    if kind != "given":
        options["allowed"] = queries[0] if many is None else queries
    return options


def _add_sums(rng: random.Random, model: MADE, queries: list[dict[Any, Any]], options: dict[str, Any]) -> bool:
    """Adds to each query the sums of some variables, with totals that they can have; whether there is any."""
    whole = [variable for variable, each in enumerate(model.conditionals) if each.size]
    if not whole:
        return False
    for row, query in enumerate(queries):
        state = {
            variable: rng.choice(_possible(model.conditionals[variable], query.get(variable))) for variable in whole
        }
        if "given" in options:
            given, observed = (
                options[name] if options[name].ndim == 1 else options[name][row] for name in ("given", "observed")
            )
            state |= {variable: float(given[variable]) for variable in whole if bool(observed[variable])}
        chosen = rng.sample(whole, rng.randint(1, len(whole)))
        cut = rng.randint(0, len(chosen))
        for group in (tuple(chosen[:cut]), tuple(chosen[cut:])):
            if group:
                query[group] = SumTo(int(sum(state[variable] for variable in group)))
    return True


def _possible(conditional: Conditional, wish: Any) -> list[float]:
    """The values of a variable that a wish leaves it."""
    values = conditional.values()
    assert values is not None
    if isinstance(wish, Between):
        low, high = (-torch.inf if wish.low is None else wish.low), (torch.inf if wish.high is None else wish.high)
        return [value for value in values.tolist() if low <= value <= high]
    return [value for value in values.tolist() if wish is None or value in wish]


def _wish(rng: random.Random, conditional: Conditional) -> Any:
    """Something that leaves a value."""
    values = conditional.values()
    if values is None:
        ends = sorted(rng.gauss(0, 2) for _ in range(2))
        return rng.choice((Between(None, ends[0]), Between(ends[0], None), Between(*ends), Between()))
    chosen = rng.sample(values.tolist(), rng.randint(1, len(values)))
    return rng.choice((set(chosen), sorted(chosen), Between(min(chosen), max(chosen)), Between(None, max(chosen))))


def random_values(conditional: Conditional, rows: int, generator: torch.Generator) -> Tensor:
    """Values (rows,), fp64, that it can take."""
    values = conditional.values()
    if values is None:
        return torch.randn(rows, generator=generator, dtype=torch.float64)
    return values[torch.randint(len(values), (rows,), generator=generator)]
