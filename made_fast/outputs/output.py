"""What all output classes share: the conditionals of all variables, equal ones evaluated together."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from made_fast.outputs.conditional import Conditional
from made_fast.tracing import unwatched

__all__ = ["Conditionals", "Group", "OneConditional", "Output", "for_each", "log_prob", "merged"]


class Group(NamedTuple):
    """Variables with equal conditionals: the conditional, their numbers, and where their parameters are."""

    conditional: Conditional
    variables: slice | Tensor  # (n,)
    params: slice | Tensor  # (n * K,)


@functools.lru_cache(maxsize=64)
def _kept_groups(conditionals: tuple[Conditional, ...]) -> list[Group]:
    with unwatched():  # what is kept must serve all, whoever asked first
        return _made_groups(merged(conditionals))


def _groups(conditionals: tuple[Conditional, ...]) -> list[Group]:
    compiling = torch.compiler.is_dynamo_compiling()  # which warns of what is kept
    return _made_groups(conditionals) if compiling else _kept_groups(conditionals)


def merged(conditionals: Iterable[Conditional]) -> tuple[Conditional, ...]:
    """The same conditionals, equal ones as one object, so that they are one group."""
    found: dict[Conditional, Conditional] = {}
    return tuple(found.setdefault(each, each) for each in conditionals)


def _made_groups(conditionals: tuple[Conditional, ...]) -> list[Group]:
    alike: dict[int, list[int]] = {}
    for variable, conditional in enumerate(conditionals):
        if id(conditional) not in alike:  # torch 2.6 compiles neither setdefault nor conditionals as keys
            alike[id(conditional)] = []
        alike[id(conditional)].append(variable)
    starts = list(accumulate((each.num_params for each in conditionals), initial=0))
    groups = []
    for variables in alike.values():
        conditional = conditionals[variables[0]]
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
        function(conditional, params[..., places].unflatten(-1, (-1, conditional.num_params)), variables)
        for conditional, variables, places in groups
    ]
    if len(parts) == 1:
        return parts[0]
    numbers = torch.arange(len(conditionals), device="cpu")
    order = torch.cat([numbers[group.variables] for group in groups]).argsort()
    return torch.cat(parts, dim=-1)[..., order.to(params.device)]


def log_prob(conditionals: tuple[Conditional, ...], params: Tensor, x: Tensor) -> Tensor:
    """log p(x_d | x_<d) in nats, (..., D), from params (..., P)."""
    return for_each(conditionals, params, lambda conditional, part, places: conditional.log_prob(part, x[..., places]))


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

    @classmethod
    def example(cls) -> Output:
        """A small one, by which tables and tests know what the class can do."""
        return cls()

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
        listed = [each.values() for each in self.conditionals(features)]
        for variable, values in enumerate(listed):
            if values is None:
                raise ValueError(f"output must be finite to list its values, but variable {variable} is a real number")
        return [values for values in listed if values is not None]

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
        return self.each(params, lambda conditional, part, _: conditional.mean(part), features)

    def mode(self, params: Tensor, features: int) -> Tensor:
        """Most probable value of each variable given its parameters, (..., D)."""
        return self.each(params, lambda conditional, part, _: conditional.mode(part), features)

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        """P(X_d <= x_d) given the parameters, (..., D)."""
        return self.each(params, lambda conditional, part, places: conditional.cdf(part, x[..., places]), x.shape[-1])

    def distribution(self, params: Tensor, features: int) -> Distribution:
        """The conditionals as a torch distribution with event shape (D,)."""
        return Conditionals(self, params, features)

    def each(self, params: Tensor, function: Each, features: int) -> Tensor:
        """See ``for_each``."""
        return for_each(self.conditionals(features), params, function)


class OneConditional(Output):
    """Every variable has the same conditional."""

    conditional: Conditional

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        return (self.conditional,) * features


class Conditionals(Distribution):
    """p(x_d | parameters) of D independent variables, batch (...), event (D,).

    Args:
        output: the output distribution.
        params: (..., P).
        features: D.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch declares it so
    has_rsample = False

    def __init__(self, output: Output, params: Tensor, features: int) -> None:
        self.output, self.params, self.features = output, params, features
        super().__init__(params.shape[:-1], torch.Size([features]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected values (..., D)."""
        return self.output.mean(self.params, self.features)

    @property
    def mode(self) -> Tensor:
        """Most probable values (..., D)."""
        return self.output.mode(self.params, self.features)

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum over the variables, in nats: (...)."""
        return self.output.log_prob(self.params, value).sum(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X_d <= value_d) for each variable, (..., D)."""
        return self.output.cdf(self.params, value)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws (sample_shape, ..., D) from torch's generator."""
        shape = torch.Size(sample_shape) + self.params.shape[:-1]
        params = self.params.expand(*shape, self.params.shape[-1])

        def draw(conditional: Any, part: Tensor, _: Any) -> Tensor:
            words = torch.randint(0, 1 << 24, (*part.shape[:-1], conditional.num_draws), device=part.device)
            drawn: Tensor = conditional.draw(part, words.float() * 2.0**-24)
            return drawn

        return self.output.each(params, draw, self.features)
