"""A module run once before it is exported: what it caches is real then, and what no program can hold is found at once."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["rehearse", "what_stands_in_the_way"]

Known = Callable[[Any], bool]

_NOT_OF_USERS = tuple(f"{folder}/" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


class _Hopeless(Exception):
    """Values decide which way is taken."""


def rehearse(call: Callable[..., Any], module: nn.Module, x: Tensor, context: Tensor | None) -> Any:
    """Calls a module on copies, so that an export finds real tensors in its caches, where it would leave fake ones."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return call(module, x.clone(), None if context is None else context.clone())


def what_stands_in_the_way(
    call: Callable[..., Any], module: nn.Module, x: Tensor, context: Tensor | None, known: Known
) -> str | None:
    """Why no program can hold what a module computes, found by running it instead of exporting it; None if nothing was found.

    An export of a bisection, say, takes seconds. What is found here an export would have found; not the other way round.

    Args:
        call, module, x, context: see ``rehearse``; in fp64.
        known: says of an ATen operation whether it has a translation.
    """
    inputs = [each.clone() for each in (x, context) if each is not None]
    watch = _Watch(known, inputs)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            results = call(module, inputs[0], inputs[1] if context is not None else None)
    except _Hopeless as reason:
        return str(reason)
    except Exception:  # the export says it in its own words
        return None
    marks = [watch.marks.get(each) for each in tree_leaves(results) if isinstance(each, Tensor)]
    return next((mark for mark in marks if mark), None)


class _Watch(TorchDispatchMode):
    """Follows what depends on the input.

    Attributes:
        marks: of tensors that depend on it, what stands in the way of their translation, empty if nothing.
    """

    def __init__(self, known: Known, inputs: list[Tensor]) -> None:
        super().__init__()
        self._known = known
        self.marks: Any = WeakTensorKeyDictionary()
        for each in inputs:
            self.marks[each] = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        marks = [self.marks[each] for each in given if each in self.marks]
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if not marks or name.startswith("new_") or name.endswith("_like"):
            return result
        if name in ("_local_scalar_dense", "nonzero"):
            raise _Hopeless(f"its way depends on values of tensors{_place()}")
        mark = next((each for each in marks if each), "")
        if not mark and not self._can(func):
            mark = f"operation {func} on values that depend on the input has no translation{_place()}"
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        for each in (*made, *(given[:1] if func._schema.is_mutable else ())):
            self.marks[each] = mark
        return result

    def _can(self, func: Any) -> bool:
        """Whether an operation might become ones that have a translation."""
        return self._known(func) or func._schema.is_mutable or func.is_view or func in _decomposed()


@functools.cache
def _decomposed() -> Any:
    return {
        *torch.export.default_decompositions(),
        torch.ops.aten.native_batch_norm.default,
    }  # which exports name otherwise


def _place() -> str:
    """Where the last call stands in code that is neither ours nor torch's."""
    frames = [each for each in traceback.extract_stack() if not each.filename.startswith(_NOT_OF_USERS)]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
