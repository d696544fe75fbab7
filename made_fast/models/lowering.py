"""A MADE as a program: the network under one mask, with its weights as they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from made_fast.layers.linear import MaskedLinear
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Op, Program, Term, X

if TYPE_CHECKING:
    from made_fast.models.made import MADE

__all__ = ["program_of"]


def program_of(model: MADE, of_layers: list[Tensor | None], order: Tensor) -> Program:
    """Returns the program of a model; weights and biases are copied.

    Args:
        model: the network.
        of_layers: for each of ``model.masked_layers`` the degrees to use, or None for its own mask.
        order: (D,), of that mask.
    """
    ops: list[Op] = []
    own = dict(zip(map(id, model.masked_layers), of_layers, strict=True))

    def add(op: Op) -> int:
        ops.append(op)
        return len(ops) + 1

    def affine(source: int, layer: nn.Module, *more: Term) -> int:
        assert isinstance(layer, MaskedLinear)
        bias = layer.bias_under(own[id(layer)])
        term = layer.term(source, own[id(layer)])
        return add(Affine((term, *more), None if bias is None else bias.detach().clone()))

    value = X
    for index, module in enumerate(model.hidden):
        if index == 0:
            value = affine(X, module, *_context_terms(model.context_layer))
        elif model.residual and index % 2:
            skip, value = value, affine(add(Elementwise(value, model.activation)), module)
        elif model.residual:
            value = add(Add(skip, affine(add(Elementwise(value, model.activation)), module)))
        else:
            value = affine(add(Elementwise(value, model.activation)), module)
    if len(model.hidden):
        value = add(Elementwise(value, model.activation))
    layer = model.direct_layer
    direct = () if layer is None else (layer.term(X, own[id(layer)]),)
    affine(value, model.parameters_layer, *direct, *_context_terms(model.context_direct_layer))
    sizes = (model.features, model.context_features)
    tables = None if model.encoder is None else model.encoder.flat_tables()
    return Program(*sizes, tuple(ops), order.clone(), model.params_per_variable, model.conditionals, tables)


def _context_terms(layer: nn.Linear | None) -> tuple[Term, ...]:
    return () if layer is None else (Term(CONTEXT, layer.weight.detach().clone(), None),)
