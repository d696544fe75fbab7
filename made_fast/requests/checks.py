"""Conditions and decoding as a caller gives them: checked, and brought into the form of backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from made_fast.arguments import positive_number, whole_number
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.requests.conditions import Allowed, Between, Conditions

__all__ = ["check_decoding", "conditions_of", "decoding_of"]


def decoding_of(temperature: float, greedy: bool, top_k: int, top_p: float) -> Decoding:
    """The arguments of ``sample``, checked.

    Raises:
        ValueError: one is out of bounds; the message names it.
    """
    if temperature == 0:
        raise ValueError(f"temperature must be a positive number, got {temperature!r}; for 0 use greedy=True")
    temperature, top_p_ = positive_number("temperature", temperature), positive_number("top_p", top_p)
    if top_p_ > 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p!r}")
    return Decoding(temperature, bool(greedy), whole_number("top_k", top_k), top_p_)


def check_decoding(decoding: Decoding, conditionals: Sequence[Conditional], *, constrained: bool) -> None:
    """Raises ValueError where an option of decoding does not fit; the message names it."""
    top_k, top_p = decoding.top_k, decoding.top_p
    if (top_k or top_p < 1) and any(each.code != Code.CATEGORICAL for each in conditionals):
        raise ValueError("top_k and top_p need categorical variables alone, found another conditional")
    if decoding.features and any(each.code == Code.POINT for each in conditionals):
        raise ValueError(
            f"{decoding.features[0]} has no meaning for a variable that is computed, not drawn: leave it out"
        )
    if constrained and decoding.features:
        raise ValueError(f"{decoding.features[0]} must be left out with allowed: its mass would mean nothing")


def conditions_of(
    conditionals: Sequence[Conditional],
    given: Tensor | None,
    observed: Tensor | None,
    allowed: Allowed | Sequence[Allowed] | None,
    rows: int | None,
) -> tuple[Conditions | None, int | None]:
    """Checks what a caller gave and brings it into the form of backends.

    Args:
        conditionals: one for each variable.
        given, observed, allowed: see ``Sampler.sample``.
        rows: N that a context asks for, or None.

    Returns:
        the conditions, or None without any; and N, None where nothing has rows of its own.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if given is None and observed is None and allowed is None:
        return None, rows
    features = len(conditionals)
    many = None if allowed is None or isinstance(allowed, Mapping) else list(allowed)
    if many is not None and not all(isinstance(each, Mapping) for each in many):
        raise ValueError(f"allowed must be a mapping from variables, or a sequence of such, got {allowed!r}")
    sizes = {"context": rows, "allowed": None if many is None else len(many)}
    if given is not None or observed is not None:
        given, observed = _checked_given(conditionals, given, observed)
        sizes["given"] = len(given) if given.ndim == 2 else None
        sizes["observed"] = len(observed) if observed.ndim == 2 else None
    counted = {name: size for name, size in sizes.items() if size is not None}
    if len(set(counted.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in counted.items())
        raise ValueError(f"context, given, observed and allowed must have as many rows as each other, got {shown}")
    count = next(iter(counted.values()), None)
    n = 1 if count is None else count
    support = bounds = None
    if allowed is not None:
        queries = [allowed] if isinstance(allowed, Mapping) else many
        support, bounds = _support(conditionals, [dict(query) for query in queries or []])
        support, bounds = (each.expand(n, *each.shape[1:]) for each in (support, bounds))
    if given is not None and observed is not None:
        given, observed = given.expand(n, features), observed.to(torch.uint8).expand(n, features)
    # All variables or none: what one query draws must not depend on what the others restrict.
    constrained = torch.full((features,), int(allowed is not None), dtype=torch.uint8)
    conditions = Conditions(given, observed, support, bounds, constrained)
    if given is not None and support is not None:
        _check_given_is_allowed(conditionals, conditions)
    return conditions, count


def _checked_given(
    conditionals: Sequence[Conditional], given: Tensor | None, observed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Given values, with a possible value wherever nothing is observed, and bool flags: (D,) or (N, D) each."""
    if not isinstance(given, Tensor) or not isinstance(observed, Tensor):
        raise ValueError("given and observed must both be tensors, or both be left out")
    features = len(conditionals)
    for name, tensor in (("given", given), ("observed", observed)):
        if tensor.ndim not in (1, 2) or tensor.shape[-1] != features:
            raise ValueError(f"{name} must have shape ({features},) or (N, {features}), got {tuple(tensor.shape)}")
    if not bool(((observed == 0) | (observed == 1)).all()):
        raise ValueError("observed must be bool or hold only 0 and 1, got other values")
    given, observed = given.detach().cpu(), observed.detach().cpu().bool()
    given = given if given.is_floating_point() else given.double()
    alike: dict[Conditional, list[int]] = {}
    for variable, conditional in enumerate(conditionals):
        alike.setdefault(conditional, []).append(variable)
    for conditional, variables in alike.items():
        places = slice(None) if len(variables) == features else variables
        values, seen = torch.broadcast_tensors(given[..., places], observed[..., places])
        wrong = seen & ~conditional.valid(values)
        if bool(wrong.any()):
            variable, found = variables[int(wrong.nonzero()[0, -1])], values[wrong][0].item()
            raise ValueError(f"given must be {conditional.expected} for variable {variable}, got {found}")
    known = torch.where(observed, given, torch.zeros((), dtype=given.dtype))
    return known, observed


def _support(conditionals: Sequence[Conditional], queries: list[dict[int, object]]) -> tuple[Tensor, Tensor]:
    """Flags (N, S) and bounds (N, D, 2) of N queries; see ``Conditions``."""
    sizes = [each.size for each in conditionals]
    support = torch.ones(len(queries), sum(sizes), dtype=torch.uint8)
    bounds = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).repeat(len(queries), len(sizes), 1)
    first = list(accumulate(sizes, initial=0))
    for number, query in enumerate(queries):
        for key, wanted in query.items():
            variable = whole_number("a variable of allowed", key, 0, len(sizes) - 1)
            wish = _Wish(conditionals[variable], variable, wanted)
            if wish.conditional.size:
                support[number, first[variable] : first[variable + 1]] = wish.flags()
            else:
                bounds[number, variable] = torch.tensor(wish.ends())
    return support, bounds


@dataclass(frozen=True)
class _Wish:
    """What a caller allows one variable: a ``Between``, a range or a set of values."""

    conditional: Conditional
    variable: int
    wanted: object

    def flags(self) -> Tensor:
        """Which of its values a finite variable may take, bool (size,)."""
        values, name = self.conditional.values(), f"allowed[{self.variable}]"
        assert values is not None
        if isinstance(self.wanted, Between):
            low, high = self.ends()
            flags = (values >= low) & (values <= high)
        else:
            listed = self._listed()
            strange = listed[~torch.isin(listed, values)]
            if len(strange):
                raise ValueError(
                    f"{name} must hold values that are {self.conditional.expected}, got {strange[0].item()}"
                )
            flags = torch.isin(values, listed)
        if not bool(flags.any()):
            raise ValueError(f"{name} must leave a value that is {self.conditional.expected}, got {self.wanted!r}")
        return flags

    def _listed(self) -> Tensor:
        """The values that are named one by one, fp64 (n,)."""
        wanted: Any = self.wanted
        try:
            values = wanted if isinstance(wanted, Tensor) else torch.tensor(list(wanted), dtype=torch.float64)
            return values.detach().cpu().double().flatten()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"allowed[{self.variable}] must be a Between, a range or a set of values, got {wanted!r}"
            ) from error

    def ends(self) -> tuple[float, float]:
        """The least and the greatest value that it may take."""
        wanted, name = self.wanted, f"allowed[{self.variable}]"
        if self.conditional.code == Code.OWN:
            raise ValueError(f"{name} cannot be used with a distribution of one's own")
        if self.conditional.code == Code.POINT:
            raise ValueError(f"{name} has no meaning for a variable that is computed, not drawn")
        if not isinstance(wanted, Between):
            raise ValueError(f"{name} must be a Between for a real variable, got {wanted!r}")
        low = -torch.inf if wanted.low is None else float(wanted.low)
        high = torch.inf if wanted.high is None else float(wanted.high)
        if not low <= high:
            raise ValueError(f"{name} must have low <= high, got {wanted!r}")
        return low, high


def _check_given_is_allowed(conditionals: Sequence[Conditional], conditions: Conditions) -> None:
    assert conditions.given is not None and conditions.observed is not None
    for variable in conditions.constrained.nonzero()[:, 0].tolist():
        conditional, value = conditionals[variable], conditions.given[:, variable]
        allowed = conditions.allowed_of(conditionals, variable)
        values = conditional.values()
        if values is None:
            inside = (value >= allowed[:, 0]) & (value <= allowed[:, 1])
        else:
            inside = ((value[:, None] == values.to(value)) & allowed).any(1)
        if bool((conditions.observed[:, variable].bool() & ~inside).any()):
            raise ValueError(f"given must be allowed where it is observed, but variable {variable} is not")
