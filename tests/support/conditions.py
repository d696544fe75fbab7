"""What draws of the models of the table are held to: given and allowed values, for each of 8 rows or for all."""

import functools
from typing import Any

import torch
from models import FEATURES, some_allowed, valid
from torch import Tensor

from made_fast import MADE
from made_fast.requests.checks import conditions_of
from made_fast.requests.conditions import Conditions

CONDITIONS = ("given", "allowed", "given and allowed", "one for all")


def observed_of(rows: int, features: int = FEATURES, share: float = 0.4) -> Tensor:
    return torch.rand(rows, features, generator=torch.Generator().manual_seed(rows)) < share


@functools.cache
def arguments_of(output: str, kind: str, features: int = FEATURES, rows: int = 8) -> dict[str, Any]:
    """Arguments of ``sample``: a condition for each row, or one for all of them."""
    given, observed = valid(output, rows, seed=4, features=features), observed_of(rows, features)
    query = some_allowed(output, features)
    queries = [{}, query, {variable: query[variable] for variable in list(query)[:1]}, dict(list(query.items())[-1:])]
    if kind == "given":
        return {"given": given, "observed": observed}
    if kind == "allowed":
        return {"allowed": [queries[row % 4] for row in range(rows)]}
    if kind == "one for all":
        return {"allowed": query, "given": given[0], "observed": torch.arange(features) == 1}
    for row in range(rows):
        observed[row] &= ~torch.tensor([variable in queries[row % 4] for variable in range(features)])
    return {"given": given, "observed": observed, "allowed": [queries[row % 4] for row in range(rows)]}


def moved_of(model: MADE, arguments: dict[str, Any], contexts: int | None) -> Conditions | None:
    """The conditions in the form of backends, in the dtype of a model."""
    own = [arguments.get(name) for name in ("given", "observed", "allowed")]
    conditions, _, _ = conditions_of(model.conditionals, *own, contexts)
    return None if conditions is None else conditions.moved(torch.device("cpu"), next(model.parameters()).dtype)
