"""What each output can do, and on which backends: read from the classes and from the rows of backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from made_fast.backends import BACKENDS, Backend, why_not
from made_fast.outputs.codes import Code
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.kinds import OUTPUTS, Mixed
from made_fast.outputs.output import Output
from made_fast.outputs.own import Own
from made_fast.requests.conditions import Between
from made_fast.requests.request import Request
from made_fast.requests.sums import SumTo
from made_fast.sampling.sampler import needs_of

__all__ = ["METHODS", "REQUESTS", "able", "claims", "examples", "markdown", "request_of"]

METHODS = ("log_prob", "mean", "mode", "cdf")  # of a Conditional
# What can be asked for while drawing; the last two ask a backend for nothing beyond plain draws.
REQUESTS = ("given", "allowed", "sums", "temperature", "greedy", "top_k", "top_p", "ensembles", "context")

_VALUES: dict[str, Any] = {"temperature": 0.7, "greedy": True, "top_k": 2, "top_p": 0.5}


class _OwnConditional(Conditional):
    """Stands for conditionals of one's own that every backend can draw; nothing is drawn here."""

    native_draw = {"float32": 0, "float64": 0}  # noqa: RUF012
    triton_draw = ()

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        raise NotImplementedError


def examples() -> dict[str, tuple[Output, int]]:
    """By name, one output of each class of ``OUTPUTS`` and one of one's own, and its number of variables.

    ``mixed`` has a column of each other kind.
    """
    by_name: dict[str, tuple[Output, int]] = {}
    for name, kind in OUTPUTS.items():
        output = kind.example()
        by_name[name] = output, len(output.parts) if isinstance(output, Mixed) else 3
    return {**by_name, Own.name: (Own(_OwnConditional()), 3)}


def request_of(what: str, conditionals: Sequence[Conditional]) -> dict[str, Any]:
    """Arguments of ``sample`` that ask for one of ``REQUESTS``, for variables with these conditionals."""
    if what == "given":
        values = [each.values() for each in conditionals]
        given = [0.0 if known is None else float(known[-1]) for known in values]
        observed = torch.zeros(len(given), dtype=torch.bool)
        observed[-1] = True
        return {"given": torch.tensor(given), "observed": observed}
    if what == "allowed":
        return {"allowed": {variable: Between(0.0, 1.0) for variable in range(len(conditionals))}}
    if what == "sums":
        most = sum(0.0 if known is None else float(known[-1]) for known in (each.values() for each in conditionals))
        return {"allowed": SumTo(int(most) - 2)}
    return {what: _VALUES[what]} if what in _VALUES else {}


def able(what: str, conditional: Conditional) -> bool:
    """Whether a conditional has one of ``METHODS``, or one of ``REQUESTS`` has a meaning for it."""
    if what in METHODS:
        return getattr(type(conditional), what) is not getattr(Conditional, what)
    try:
        _features(what, [conditional])
    except ValueError:
        return False
    return True


def claims(backend: Backend, conditionals: Sequence[Conditional], what: str = "") -> bool:
    """Whether a backend says that it draws these and meanwhile does one of ``REQUESTS``, on a machine that can run it."""
    device = torch.device(backend.devices[0] if backend.devices else "cpu")
    dtype = backend.dtypes[0] if backend.dtypes else torch.float32
    needs = needs_of(conditionals, device=device, dtype=dtype, features=_features(what, conditionals))
    return why_not(replace(backend, missing=None), needs) is None


def _features(what: str, conditionals: Sequence[Conditional]) -> tuple[str, ...]:
    """What a backend must be able to do for one of ``REQUESTS``; ValueError where that has no meaning."""
    return Request.checked(conditionals, 0, 1, seed=0, **request_of(what, conditionals)).features


def _drawn(backend: Backend, conditionals: Sequence[Conditional]) -> str:
    if not claims(backend, conditionals):
        return "no"
    by_itself = backend.own_draw is None or all(each.code != Code.OWN for each in conditionals)
    return "yes" if by_itself else f"by its `{backend.own_draw}`"


def _method(what: str, conditionals: Sequence[Conditional]) -> str:
    answers = [able(what, each) for each in conditionals]
    if not any(answers):
        return "if it has one" if any(each.code == Code.OWN for each in conditionals) else "no"
    return "yes" if all(answers) else "yes, if every column has one"


def _request(what: str, conditionals: Sequence[Conditional]) -> str:
    those = [each for each in conditionals if able(what, each)]
    names = [f"`{backend.name}`" for backend in BACKENDS if those and claims(backend, those, what)]
    if not names:
        return "no"
    drawing = sum(claims(backend, those) for backend in BACKENDS)
    shown = "yes" if len(names) == drawing else ", ".join(names)
    return shown if len(those) == len(conditionals) else f"{shown}, if every column can"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [(title, *heads), ["---"] * (len(heads) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown() -> str:
    """Two tables with a row for each output: its methods and who draws it; what can be asked for while drawing."""
    shown = {}
    for output, features in examples().values():
        shown[f"`{type(output).__name__}`"] = output.conditionals(features)
    first = [
        (name, *(_method(what, each) for what in METHODS), *(_drawn(backend, each) for backend in BACKENDS))
        for name, each in shown.items()
    ]
    second = [(name, *(_request(what, each) for what in REQUESTS)) for name, each in shown.items()]
    drawn = [f"drawn by `{backend.name}`" for backend in BACKENDS]
    heads = [what if what in ("ensembles", "context") else f"`{what}`" for what in REQUESTS]
    return "\n\n".join(
        [
            _table("output", [*(f"`{what}`" for what in METHODS), *drawn], first),
            _table("while drawing", heads, second),
        ]
    )
