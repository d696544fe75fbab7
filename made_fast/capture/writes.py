"""Writes in place of an exported graph, ``h += c`` or a ReLU in place, as the operations that return what they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

__all__ = ["without_writes"]

# What surely returns a tensor of its own: a reshape, or a dropout that does nothing, may hand its argument on.
_PRODUCTS = ("linear", "addmm", "mm", "matmul", "bmm", "add", "sub", "mul", "div")
_FUNCTIONS = ("relu", "tanh", "sigmoid", "elu", "leaky_relu", "silu", "gelu", "exp", "softplus")
_FRESH = frozenset(f"aten::{name}" for name in (*_PRODUCTS, *_FUNCTIONS))


def without_writes(graph: fx.Graph, known: Callable[[Any], bool]) -> None:
    """Changes a graph: a write into a tensor that nothing else shares becomes a value that is read from there on.

    Args:
        graph: exported; other writes stay as they are.
        known: says of an ATen operation whether it may stand in the graph.
    """
    for node in list(graph.nodes):
        target = _returning(node.target)
        if target is None or not known(target) or not isinstance(node.args[0], fx.Node):
            continue
        written = node.args[0]
        order = {each: number for number, each in enumerate(graph.nodes)}
        before = [user for user in written.users if order[user] < order[node]]
        if all(map(_is_fresh, (written, *before))):
            after = [user for user in written.users if order[user] > order[node]]
            node.target = target
            written.replace_all_uses_with(node, delete_user_cb=after.__contains__)


def _is_fresh(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in _FRESH


def _returning(target: Any) -> Any:
    """The operation that returns what this one writes into its first argument alone; None if it is no such one."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    writes = [each.alias_info is not None and each.alias_info.is_write for each in target._schema.arguments]
    name = target._schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.endswith("__") or not writes[0] or any(writes[1:]):
        return None
    return getattr(getattr(torch.ops.aten, name[:-1], None), target._overloadname, None)
