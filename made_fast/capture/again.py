"""A module that is captured again because its weights have changed: the graph of the last time, with the tensors of now."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.capture.export import Graph, own_attributes

__all__ = ["LastGraph"]

_LITERALS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class LastGraph:
    """Keeps the last graph of a module; no part of copies and pickles, where it begins anew.

    It serves while nothing but the values of parameters and buffers is another, and only if the graph has no other tensors:
    what a module keeps beside them may follow from its weights. Whoever uses it compares the result with the module.

    Args:
        of: whose likeness counts, where copies of it are captured; the captured module itself if left out.
    """

    def __init__(self, of: nn.Module | None = None) -> None:
        self._of = of
        self._graph: Graph | None = None
        self._likeness: list[Any] = []
        self._seen: list[Any] = []  # what is known by its identity stays alive, so that no other thing has that

    def __reduce__(self) -> tuple[Any, ...]:
        return (LastGraph, (self._of,))

    def renewed(self, module: nn.Module, exact: nn.Module) -> Graph | None:
        """The graph with the tensors of an exact copy; None where the module must be exported again."""
        if self._graph is None or self._likeness != _likeness(module if self._of is None else self._of, []):
            return None
        tensors = _tensors_of(exact)
        if not tensors.keys() >= set(self._graph.sources.values()):  # some are made when it is called
            return None
        return replace(self._graph, constants={name: tensors[source] for name, source in self._graph.sources.items()})

    def keep(self, module: nn.Module, graph: Graph) -> None:
        """Keeps the graph that was just exported of a module."""
        self._graph = replace(graph, constants={}) if graph.constants.keys() == graph.sources.keys() else None
        self._seen = []
        self._likeness = _likeness(module if self._of is None else self._of, self._seen)


def _tensors_of(exact: nn.Module) -> dict[str, Tensor]:
    return {**dict(exact.named_parameters(remove_duplicate=False)), **dict(exact.named_buffers(remove_duplicate=False))}


def _likeness(module: nn.Module, seen: list[Any]) -> list[Any]:
    """All of a module but the values of its parameters and buffers, in a form that can be compared."""
    found: list[Any] = []
    for name, each in module.named_modules(remove_duplicate=False):
        hooks = [id(hook) for kind in _HOOKS for hook in vars(each)[kind].values()]
        found.append((name, type(each), each.training, hooks))
        tensors = {**each._parameters, **each._buffers}
        found += [(key, None if value is None else (value.shape, value.dtype)) for key, value in tensors.items()]
        for attribute, value in own_attributes(each).items():
            found.append(attribute)
            _collect(value, found, seen)
    return found


def _collect(value: Any, found: list[Any], seen: list[Any]) -> None:
    if isinstance(value, _LITERALS):
        found.append((type(value), repr(value)))  # nan is like nan
    elif type(value) is Tensor:
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found.append((value.shape, value.dtype, hashlib.sha256(content).digest()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        found.append((type(value), len(value)))
        for each in value:
            _collect(each, found, seen)
    elif isinstance(value, partial):
        found.append(partial)
        _collect([value.func, value.args, value.keywords], found, seen)
    elif isinstance(value, dict):
        found.append((type(value), list(map(str, value))))
        for each in value.values():
            _collect(each, found, seen)
    else:
        found.append(id(value))
        seen.append(value)
