"""Conditions and decoding as a caller gives them: checked, and brought into the form of backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    constrained = torch.zeros(features, dtype=torch.uint8)
    if allowed is not None:
        queries = [allowed] if isinstance(allowed, Mapping) else many
        support, bounds = _support(conditionals, [dict(query) for query in queries or []], constrained)
        support, bounds = (each.expand(n, *each.shape[1:]) for each in (support, bounds))
    if given is not None and observed is not None:
        given, observed = given.expand(n, features), observed.to(torch.uint8).expand(n, features)
        if support is not None:
            _check_given_is_allowed(conditionals, given, observed, Conditions(None, None, support, bounds, constrained))
    return Conditions(given, observed, support, bounds, constrained), count


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


def _support(
    conditionals: Sequence[Conditional], queries: list[dict[int, object]], constrained: Tensor
) -> tuple[Tensor, Tensor]:
    """Flags (N, S) and bounds (N, D, 2); marks the variables that are drawn from what they allow."""
    sizes = [each.size for each in conditionals]
    support = torch.ones(len(queries), sum(sizes), dtype=torch.uint8)
    bounds = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).repeat(len(queries), len(sizes), 1)
    first = [0]
    for size in sizes:
        first.append(first[-1] + size)
    constrained.fill_(1)  # all of them: what one query draws must not depend on what the others restrict
    for number, query in enumerate(queries):
        for key, wanted in query.items():
            variable = whole_number("a variable of allowed", key, 0, len(sizes) - 1)
            conditional = conditionals[variable]
            if conditional.size:
                flags = _flags(conditional, variable, wanted)
                support[number, first[variable] : first[variable + 1]] = flags
            else:
                bounds[number, variable] = torch.tensor(_ends(conditional, variable, wanted))
    return support, bounds


def _flags(conditional: Conditional, variable: int, wanted: object) -> Tensor:
    values = conditional.values()
    assert values is not None
    if isinstance(wanted, Between):
        low, high = _ends(conditional, variable, wanted)
        flags = (values >= low) & (values <= high)
    else:
        listed = _listed(variable, wanted)
        strange = listed[~torch.isin(listed, values)]
        if len(strange):
            found = strange[0].item()
            raise ValueError(f"allowed[{variable}] must hold values that are {conditional.expected}, got {found}")
        flags = torch.isin(values, listed)
    if not bool(flags.any()):
        raise ValueError(f"allowed[{variable}] must leave a value that is {conditional.expected}, got {wanted!r}")
    return flags


def _listed(variable: int, wanted: object) -> Tensor:
    try:
        found = wanted if isinstance(wanted, Tensor) else torch.tensor(list(wanted), dtype=torch.float64)  # type: ignore[call-overload]
        return found.detach().cpu().double().flatten()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"allowed[{variable}] must be a Between, a range or a set of values, got {wanted!r}"
        ) from error


def _ends(conditional: Conditional, variable: int, wanted: object) -> tuple[float, float]:
    if conditional.code == Code.OWN:
        raise ValueError(f"allowed[{variable}] cannot be used with a distribution of one's own")
    if conditional.code == Code.POINT:
        raise ValueError(f"allowed[{variable}] has no meaning for a variable that is computed, not drawn")
    if not isinstance(wanted, Between):
        raise ValueError(f"allowed[{variable}] must be a Between for a real variable, got {wanted!r}")
    low = -torch.inf if wanted.low is None else float(wanted.low)
    high = torch.inf if wanted.high is None else float(wanted.high)
    if not low <= high:
        raise ValueError(f"allowed[{variable}] must have low <= high, got {wanted!r}")
    return low, high


def _check_given_is_allowed(
    conditionals: Sequence[Conditional], given: Tensor, observed: Tensor, conditions: Conditions
) -> None:
    for variable in conditions.constrained.nonzero()[:, 0].tolist():
        conditional, value = conditionals[variable], given[:, variable]
        allowed = conditions.allowed_of(conditionals, variable)
        values = conditional.values()
        if values is None:
            inside = (value >= allowed[:, 0]) & (value <= allowed[:, 1])
        else:
            inside = ((value[:, None] == values.to(value)) & allowed).any(1)
        if bool((observed[:, variable].bool() & ~inside).any()):
            raise ValueError(f"given must be allowed where it is observed, but variable {variable} is not")
