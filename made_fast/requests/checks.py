"""Conditions and decoding as a caller gives them: checked, and brought into the form of backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from made_fast.arguments import flag, positive_number, real_number, shown, tensor_of, whole_number, with_values
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import Decoding
from made_fast.requests.conditions import Allowed, Between, Conditions
from made_fast.requests.sum_checks import split_query, sums_of
from made_fast.requests.sums import SumTo

__all__ = ["Impossible", "check_decoding", "check_rounded", "conditions_of", "decoding_of"]


class Impossible(NamedTuple):
    """Queries that leave nothing to draw.

    Attributes:
        rows: (n,) bool, of each query or of the one for all.
        why: what is wrong with the first of them, in a sentence.
    """

    rows: Tensor
    why: str


def decoding_of(temperature: float, greedy: bool, top_k: int, top_p: float) -> Decoding:
    """The arguments of ``sample``, checked.

    Raises:
        ValueError: one is out of bounds; the message names it.
    """
    if isinstance(temperature, (int, float)) and temperature == 0:
        raise ValueError(f"temperature must be a positive number, got {temperature!r}; for 0 use greedy=True")
    temperature, top_p_ = positive_number("temperature", temperature), positive_number("top_p", top_p)
    if top_p_ > 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p!r}")
    return Decoding(temperature, flag("greedy", greedy), whole_number("top_k", top_k), top_p_)


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
    given: object,
    observed: object,
    allowed: Allowed | Sequence[Allowed] | None,
    rows: int | None,
) -> tuple[Conditions | None, Impossible | None, int | None]:
    """Checks what a caller gave and brings it into the form of backends.

    Args:
        conditionals: one for each variable.
        given, observed, allowed: see ``Sampler.sample``.
        rows: N that a context asks for, or None.

    Returns:
        the conditions, or None without any; which queries are impossible, or None where none is; and N, None where nothing
        has rows of its own. An impossible query allows every value, so that backends never see an empty one.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if given is None and observed is None and allowed is None:
        return None, None, rows
    features = len(conditionals)
    many = None if allowed is None or isinstance(allowed, (Mapping, SumTo)) else _listed_queries(allowed)
    known: tuple[Tensor, Tensor] | None = None
    sizes = {"context": rows, "allowed": None if many is None else len(many)}
    if given is not None or observed is not None:
        known = _checked_given(conditionals, given, observed)
        for name, tensor in zip(("given", "observed"), known, strict=True):
            sizes[name] = len(tensor) if tensor.ndim == 2 else None
    counted = {name: size for name, size in sizes.items() if size is not None}
    if len(set(counted.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in counted.items())
        raise ValueError(f"context, given, observed and allowed must have as many rows as each other, got {found}")
    count = next(iter(counted.values()), None)
    n = 1 if count is None else count
    # All variables or none: what one query draws must not depend on what the others restrict.
    constrained = torch.full((features,), int(allowed is not None), dtype=torch.uint8)
    conditions = Conditions(None, None, None, None, constrained)
    if known is not None:
        values, flags = (each.expand(n, features) for each in known)
        conditions = replace(conditions, given=values, observed=flags.to(torch.uint8))
    if allowed is None:
        return conditions, None, count
    queries: list[Any] = [allowed] if many is None else many
    split = [split_query(query, conditionals) for query in queries]
    support, bounds, named = _support(conditionals, [single for single, _ in split])
    support, bounds = (each.expand(n, *each.shape[1:]) for each in (support, bounds))
    conditions = replace(conditions, support=support, bounds=bounds)
    impossible = _impossible(conditionals, conditions, named)
    nothing, why = impossible.any(1), ""
    if bool(nothing.any()):
        why = _refusal(impossible, count is not None)
        support = support | nothing[:, None]
        bounds = torch.where(nothing[:, None, None], bounds.new_tensor([-torch.inf, torch.inf]), bounds)
        conditions = replace(conditions, support=support, bounds=bounds)
    wishes = [sums for _, sums in split]
    if any(wishes):
        own = None if known is None else (values, flags)
        sums, out_of_reach, first = sums_of(conditionals, wishes, support, own, nothing, count is not None)
        conditions = replace(conditions, sums=sums)
        why = why if bool(nothing[out_of_reach | nothing][:1].any()) else first
        nothing = nothing | out_of_reach
    return conditions, Impossible(nothing, why) if why else None, count


def check_rounded(conditionals: Sequence[Conditional], given: object, x: Tensor) -> None:
    """Raises ValueError where x (..., D), converted from what was given, has another value of a finite variable."""
    if given is x:
        return
    exact = tensor_of("x", given)
    places = [variable for variable, each in enumerate(conditionals) if each.size]
    if exact.is_floating_point() and exact.dtype != x.dtype and places:
        before, after = exact.to(x.device)[..., places], x[..., places]
        wrong = before != after.to(before.dtype)
        if bool(wrong.any()):
            number = places[int(wrong.nonzero()[0, -1])]
            raise ValueError(
                f"x must be {conditionals[number].expected}, and exact in {x.dtype}, for variable {number}, got "
                f"{before[wrong][0].item()}"
            )


def _listed_queries(allowed: object) -> list[Mapping[int, object] | SumTo]:
    try:
        queries: list[Any] = [] if isinstance(allowed, (str, bytes)) else list(allowed)  # type: ignore[call-overload]
        wrong = isinstance(allowed, (str, bytes)) or not all(isinstance(each, (Mapping, SumTo)) for each in queries)
    except TypeError:
        wrong = True
    if wrong:
        raise ValueError(
            f"allowed must be a mapping from variables, a SumTo, or a sequence of such, got {shown(allowed)}"
        )
    return queries


def _checked_given(conditionals: Sequence[Conditional], given: object, observed: object) -> tuple[Tensor, Tensor]:
    """Given values, with a possible value wherever nothing is observed, and bool flags: (D,) or (N, D) each."""
    if given is None or observed is None:
        raise ValueError("given and observed must both be given, or both be left out")
    features, tensors = len(conditionals), []
    for name, value in (("given", given), ("observed", observed)):
        tensor = with_values(name, tensor_of(name, value)).detach().cpu()
        if tensor.ndim not in (1, 2) or tensor.shape[-1] != features:
            raise ValueError(f"{name} must have shape ({features},) or (N, {features}), got {tuple(tensor.shape)}")
        tensors.append(tensor)
    given, flags = tensors
    if not bool(((flags == 0) | (flags == 1)).all()):
        raise ValueError("observed must be bool or hold only 0 and 1, got other values")
    observed = flags.bool()
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


def _support(
    conditionals: Sequence[Conditional], queries: Sequence[Mapping[object, object]]
) -> tuple[Tensor, Tensor, set[int]]:
    """Flags (N, S) and bounds (N, D, 2) of N queries, see ``Conditions``; and the variables that they name."""
    sizes = [each.size for each in conditionals]
    support = torch.ones(len(queries), sum(sizes), dtype=torch.uint8)
    bounds = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).repeat(len(queries), len(sizes), 1)
    first, named = list(accumulate(sizes, initial=0)), set()
    for number, query in enumerate(queries):
        for key, wanted in query.items():
            variable = whole_number("a variable of allowed", key, 0, len(sizes) - 1)
            named.add(variable)
            wish = _Wish(conditionals[variable], variable, wanted)
            if wish.conditional.size:
                support[number, first[variable] : first[variable + 1]] = wish.flags()
            else:
                bounds[number, variable] = torch.tensor(wish.ends(), dtype=torch.float64)
    return support, bounds, named


@dataclass(frozen=True)
class _Wish:
    """What a caller allows one variable: a ``Between``, a range or a set of values."""

    conditional: Conditional
    variable: int
    wanted: object

    @property
    def name(self) -> str:
        return f"allowed[{self.variable}]"

    def flags(self) -> Tensor:
        """Which of its values a finite variable may take, bool (size,); values that it cannot take are left out."""
        values, wanted = self.conditional.values(), self.wanted
        assert values is not None
        if isinstance(wanted, Between):
            low, high = self.ends()
            return (values >= low) & (values <= high)
        if isinstance(wanted, range):  # which may be long
            return torch.tensor([value.is_integer() and int(value) in wanted for value in values.tolist()])
        listed = self._listed()
        if bool(listed.isnan().any()):
            raise ValueError(f"{self.name} must hold values, got nan")
        return torch.isin(values, listed)

    def _listed(self) -> Tensor:
        """The values that are named one by one, fp64 (n,)."""
        wanted: Any = self.wanted
        try:
            if isinstance(wanted, Tensor) or hasattr(wanted, "__array__"):
                return with_values(self.name, tensor_of(self.name, wanted)).detach().cpu().double().flatten()
            # What can be read but once would be empty at the next call.
            refused = isinstance(wanted, (Iterator, Mapping, str, bytes, type(None)))
            values = wanted if refused or isinstance(wanted, (int, float)) else list(wanted)
            return torch.tensor(None if refused else values, dtype=torch.float64).flatten()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(
                f"{self.name} must be a Between, a range or a set of values, got {shown(wanted)}"
            ) from error

    def ends(self) -> tuple[float, float]:
        """The least and the greatest value that it may take; nothing where the first is above the second."""
        wanted = self.wanted
        if self.conditional.code == Code.OWN:
            raise ValueError(f"{self.name} cannot be used with a distribution of one's own")
        if self.conditional.code == Code.POINT:
            raise ValueError(f"{self.name} has no meaning for a variable that is computed, not drawn")
        if not isinstance(wanted, Between):
            raise ValueError(f"{self.name} must be a Between for a real variable, got {shown(wanted)}")
        low = -torch.inf if wanted.low is None else real_number(f"{self.name}.low", wanted.low)
        high = torch.inf if wanted.high is None else real_number(f"{self.name}.high", wanted.high)
        return low, high


def _refusal(impossible: Tensor, many: bool) -> str:
    """About the first query that leaves a variable no value, of (N, D) bool."""
    row, variable = impossible.nonzero()[0].tolist()
    which = f" of query {row}" if many else ""
    return (
        f"allowed must leave variable {variable} a value that it can take, but that{which} leaves none: nothing can be "
        "drawn, and the probability is 0"
    )


def _impossible(conditionals: Sequence[Conditional], conditions: Conditions, named: set[int]) -> Tensor:
    """(N, D) bool: which of the named variables have no value that is allowed, or are given another one."""
    assert conditions.support is not None and conditions.bounds is not None
    found = torch.zeros(conditions.bounds.shape[:2], dtype=torch.bool)
    for variable in named:
        conditional = conditionals[variable]
        allowed = conditions.allowed_of(conditionals, variable)
        found[:, variable] = ~allowed.any(1) if conditional.size else ~(allowed[:, 0] <= allowed[:, 1])
        if conditions.given is None or conditions.observed is None:
            continue
        values, value = conditional.values(), conditions.given[:, variable]
        if values is None:
            inside = (value >= allowed[:, 0]) & (value <= allowed[:, 1])
        else:
            inside = ((value[:, None] == values.to(value)) & allowed).any(1)
        found[:, variable] |= conditions.observed[:, variable].bool() & ~inside
    return found
