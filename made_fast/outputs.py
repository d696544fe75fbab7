"""Output distributions: which conditional each variable has. One class each, and the table ``OUTPUTS``.

To add one: write its conditional (conditionals.py), its class here and its row in ``OUTPUTS``, and its draw in the backends;
the contract tests find it by the table.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from made_fast.conditionals import (
    BernoulliConditional,
    CategoricalConditional,
    Conditional,
    SpinConditional,
)
from made_fast.distributions import Conditionals
from made_fast.real_conditionals import (
    MixtureOfLogisticsConditional,
    MixtureOfNormalsConditional,
    NormalConditional,
)

__all__ = [
    "OUTPUTS",
    "Bernoulli",
    "Categorical",
    "Mixed",
    "MixtureOfLogistics",
    "MixtureOfNormals",
    "Normal",
    "Output",
    "Own",
    "Spin",
    "log_prob",
    "make_output",
]


class Group(NamedTuple):
    """Variables with equal conditionals: the conditional, their numbers, and where their parameters are."""

    conditional: Conditional
    variables: slice | Tensor  # (n,)
    params: slice | Tensor  # (n * K,)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept must serve training too, whoever asked first
def _groups(conditionals: tuple[Conditional, ...]) -> list[Group]:
    found: dict[Conditional, list[int]] = {}
    starts = [0]
    for variable, conditional in enumerate(conditionals):
        found.setdefault(conditional, []).append(variable)
        starts.append(starts[-1] + conditional.num_params)
    groups = []
    for conditional, variables in found.items():
        if variables[-1] - variables[0] == len(variables) - 1:  # side by side: no copy
            params: slice | Tensor = slice(starts[variables[0]], starts[variables[-1] + 1])
            groups.append(Group(conditional, slice(variables[0], variables[-1] + 1), params))
        else:
            first = torch.tensor([starts[variable] for variable in variables])
            params = (first[:, None] + torch.arange(conditional.num_params)).flatten()
            groups.append(Group(conditional, torch.tensor(variables), params))
    return groups


Each = Callable[[Conditional, Tensor, Any], Tensor]


def for_each(conditionals: tuple[Conditional, ...], params: Tensor, function: Each) -> Tensor:
    """Applies a function of (conditional, params (..., n, K), variables) to each group of equal ones; returns (..., D)."""
    groups = _groups(conditionals)
    parts = [
        function(conditional, params[..., own].unflatten(-1, (-1, conditional.num_params)), variables)
        for conditional, variables, own in groups
    ]
    if len(parts) == 1:
        return parts[0]
    places = torch.arange(len(conditionals))
    order = torch.cat([places[group.variables] for group in groups]).argsort()
    return torch.cat(parts, dim=-1)[..., order.to(params.device)]


def log_prob(conditionals: tuple[Conditional, ...], params: Tensor, x: Tensor) -> Tensor:
    """log p(x_d | x_<d) in nats, (..., D), from params (..., P)."""
    return for_each(conditionals, params, lambda conditional, own, at: conditional.log_prob(own, x[..., at]))


class Output(ABC):
    """The conditionals of all variables. Parameters are flat and variable-major, shape (..., P).

    All methods but ``conditionals`` and ``arguments`` follow from the conditionals.
    """

    name: str

    @abstractmethod
    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        """The conditional of each of the D variables.

        Raises:
            ValueError: the output describes another number of variables.
        """

    def arguments(self) -> dict[str, Any]:
        """The arguments that make it again, as JSON can hold them."""
        return {}

    def __repr__(self) -> str:
        """Class and arguments."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments().items())})"

    def params_per_variable(self, features: int) -> list[int]:
        """K_d for each of the D variables."""
        return [each.num_params for each in self.conditionals(features)]

    def values(self, features: int) -> list[Tensor]:
        """For each variable its values, fp64 (size,).

        Raises:
            ValueError: a variable is a real number.
        """
        found = [each.values() for each in self.conditionals(features)]
        for variable, values in enumerate(found):
            if values is None:
                raise ValueError(f"output must be finite to list its values, but variable {variable} is a real number")
        return [values for values in found if values is not None]

    def check(self, x: Tensor) -> None:
        """Raises ValueError if a value of ``x`` (..., D) cannot come from this distribution."""
        for conditional, variables, _ in _groups(self.conditionals(x.shape[-1])):
            part = x[..., variables]
            valid = conditional.valid(part)
            if not bool(valid.all()):
                found = part[~valid][0].item()
                hint = "; binarize the data first" if conditional.name == "bernoulli" else ""
                raise ValueError(f"x must be {conditional.expected} for output {self.name!r}, got {found}{hint}")

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_d | x_<d) in nats, shape (..., D), from params (..., P)."""
        return log_prob(self.conditionals(x.shape[-1]), params, x)

    def mean(self, params: Tensor, features: int) -> Tensor:
        """Expected value of each variable given its parameters, (..., D); outputs that have one."""
        return self.each(params, lambda conditional, own, _: conditional.mean(own), features)

    def mode(self, params: Tensor, features: int) -> Tensor:
        """Most probable value of each variable given its parameters, (..., D)."""
        return self.each(params, lambda conditional, own, _: conditional.mode(own), features)

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        """P(X_d <= x_d) given the parameters, (..., D)."""
        return self.each(params, lambda conditional, own, at: conditional.cdf(own, x[..., at]), x.shape[-1])

    def distribution(self, params: Tensor, features: int) -> Distribution:
        """The conditionals as a torch distribution with event shape (D,)."""
        return Conditionals(self, params, features)

    def each(self, params: Tensor, function: Each, features: int) -> Tensor:
        """See ``for_each``."""
        return for_each(self.conditionals(features), params, function)


class _Uniform(Output):
    """Every variable has the same conditional."""

    conditional: Conditional

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        return (self.conditional,) * features


class Bernoulli(_Uniform):
    """Binary variables; the one parameter of each is its logit: x = 1 iff u < sigmoid(logit)."""

    name = "bernoulli"
    conditional = BernoulliConditional()

    def distribution(self, params: Tensor, features: int) -> Distribution:
        """Independent Bernoulli with these logits."""
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=params), 1)


class Spin(_Uniform):
    """Variables -1 or +1; the one parameter of each is the logit of +1."""

    name = "spin"
    conditional = SpinConditional()


class Categorical(Output):
    """Categories 0 .. K_d - 1, a logit for each.

    Args:
        sizes: K of every variable, or K_d for each of them.
        embedding: 0: the network reads categories one-hot; n: by n numbers for each, learned.
    """

    name = "categorical"

    def __init__(self, sizes: int | Sequence[int], embedding: int = 0) -> None:
        each = [sizes] if not isinstance(sizes, Sequence) else list(sizes)
        if not each or not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in each):
            raise ValueError(f"sizes must be a positive integer or a sequence of such, got {sizes!r}")
        _check_count("embedding", embedding, 0)
        self.sizes = sizes if isinstance(sizes, int) else tuple(each)
        self.embedding = embedding

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        sizes = (self.sizes,) * features if isinstance(self.sizes, int) else self.sizes
        if len(sizes) != features:
            raise ValueError(f"sizes must have one entry for each of {features} variables, got {len(sizes)}")
        return tuple(CategoricalConditional(size, self.embedding) for size in sizes)

    def arguments(self) -> dict[str, Any]:
        sizes = self.sizes if isinstance(self.sizes, int) else list(self.sizes)
        return {"sizes": sizes, "embedding": self.embedding}


class Normal(_Uniform):
    """Real numbers; parameters are the location and, through softplus, the scale above a floor.

    Args:
        floor: least scale.
    """

    name = "normal"

    def __init__(self, floor: float = 1e-4) -> None:
        self.conditional = NormalConditional(_checked_floor(floor))

    def arguments(self) -> dict[str, Any]:
        return {"floor": self.conditional.floor}


class MixtureOfNormals(_Uniform):
    """Real numbers from mixtures of k normals.

    Args:
        components: k.
        floor: least scale.
    """

    name = "mixture_of_normals"

    def __init__(self, components: int, floor: float = 1e-4) -> None:
        _check_count("components", components, 1)
        self.conditional = MixtureOfNormalsConditional(components, _checked_floor(floor))

    def arguments(self) -> dict[str, Any]:
        return {"components": self.conditional.components, "floor": self.conditional.floor}


class MixtureOfLogistics(_Uniform):
    """Levels of grey 0 .. levels - 1 from mixtures of k logistics, as in PixelCNN++; the network reads them within [-1, 1].

    Args:
        components: k.
        levels: number of levels.
        floor: least scale, where the levels span [-1, 1].
    """

    name = "mixture_of_logistics"

    def __init__(self, components: int, levels: int = 256, floor: float = 1e-3) -> None:
        _check_count("components", components, 1)
        _check_count("levels", levels, 2)
        self.conditional = MixtureOfLogisticsConditional(components, levels, _checked_floor(floor))

    def arguments(self) -> dict[str, Any]:
        own = self.conditional
        return {"components": own.components, "levels": own.size, "floor": own.floor}


class Own(_Uniform):
    """Variables with a conditional of one's own, see ``Conditional``; it cannot be saved in a model file."""

    name = "own"

    def __init__(self, conditional: Conditional) -> None:
        if not isinstance(conditional, Conditional):
            raise ValueError(f"conditional must be a Conditional, got {conditional!r}")
        self.conditional = conditional

    def arguments(self) -> dict[str, Any]:
        return {"conditional": self.conditional}


class Mixed(Output):
    """Columns of different kinds, as in a table.

    Args:
        parts: an output for each variable, of one variable each, by name or as an object; or (output, n) for n variables
            one after another.
    """

    name = "mixed"

    def __init__(self, parts: Sequence[str | Output | tuple[str | Output, int]]) -> None:
        if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
            raise ValueError(f"parts must be a sequence of outputs, got {parts!r}")
        pairs = [part if isinstance(part, (tuple, list)) else (part, 1) for part in parts]
        self.parts = [(make_output(part), count) for part, count in pairs]
        for _, count in self.parts:
            _check_count("parts", count, 1)
        self._conditionals = tuple(each for part, count in self.parts for each in part.conditionals(count))

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        if len(self._conditionals) != features:
            raise ValueError(f"parts must describe {features} variables, got {len(self._conditionals)}")
        return self._conditionals

    def arguments(self) -> dict[str, Any]:
        return {"parts": [[describe(part), count] for part, count in self.parts]}

    def __repr__(self) -> str:
        """Class and parts, also where one of them cannot be described."""
        return f"Mixed(parts={self.parts!r})"


OUTPUTS: dict[str, Callable[..., Output]] = {
    each.name: each for each in (Bernoulli, Spin, Categorical, Normal, MixtureOfNormals, MixtureOfLogistics, Mixed)
}


def make_output(output: str | Output | dict[str, Any]) -> Output:
    """Returns the output distribution of that name or description, or the object itself.

    Raises:
        ValueError: there is none of that name, or it needs arguments.
    """
    if isinstance(output, Output):
        return output
    described = dict(output) if isinstance(output, dict) else {"name": output}
    name = described.pop("name", None)
    if not isinstance(name, str) or name not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    try:
        return OUTPUTS[name](**described)
    except TypeError as error:
        raise ValueError(f"output {name!r} needs arguments: give an object of made_fast.outputs ({error})") from error


def describe(output: Output) -> str | dict[str, Any]:
    """What ``make_output`` makes it from again, as JSON can hold it.

    Raises:
        ValueError: it is one's own, whose code no file can hold.
    """
    if output.name not in OUTPUTS:
        raise ValueError(f"output {output.name!r} cannot be saved: its code is in no file; save the state dict instead")
    arguments = output.arguments()
    return {"name": output.name, **arguments} if arguments else output.name


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer, {least} or more, got {value!r}")


def _checked_floor(floor: object) -> float:
    if not isinstance(floor, (int, float)) or isinstance(floor, bool) or not 0 < floor < float("inf"):
        raise ValueError(f"floor must be a positive number, got {floor!r}")
    return float(floor)
