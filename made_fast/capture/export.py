"""A torch module as a graph of ATen operations: a copy of it in fp64, exported for one row of input."""

from __future__ import annotations

import copy
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves

from made_fast.capture.rehearsal import rehearse
from made_fast.capture.writes import without_writes
from made_fast.layers.unchanged import Seen, Unchanged, own_attributes, unchanged

__all__ = [
    "Call",
    "CaptureError",
    "Graph",
    "detached_copy",
    "exact_copy",
    "export",
    "own_attributes",
    "place_of",
    "watch_of",
]

_TORCH = f"{Path(torch.__file__).parent}/"

Call = Callable[[nn.Module, Tensor, Tensor | None], Any]


class CaptureError(ValueError):
    """A module that cannot be captured; the message says what stands in the way, and where."""


@dataclass(frozen=True)
class Graph:
    """What ``export`` found.

    Attributes:
        nodes: the operations, in order, and the placeholders before them.
        constants: the tensors that fill placeholders, by their names.
        inputs: names of the placeholders of x, and of the context if there is one.
        outputs: the nodes of the results, and None for what is no tensor.
        sources: names of parameters and buffers of the module, for those constants that are such.
    """

    nodes: list[fx.Node]
    constants: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[fx.Node | None, ...]
    sources: dict[str, str]


class _Called(nn.Module):
    """A module as a function of x and context alone."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor, context: Tensor | None = None) -> Any:
        """What the module returns."""
        return self.call(self.module, x, context)


def exact_copy(module: nn.Module) -> nn.Module:
    """A copy of a module in fp64, in evaluation mode and on the CPU; tensors that are plain attributes are converted too.

    Raises:
        CaptureError: it cannot be copied, or it has layers that behave differently in training mode, in which it is.
    """
    for name, layer in module.named_modules():
        dropout = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if layer.training and (dropout or isinstance(layer, nn.modules.batchnorm._NormBase)):
            where = f" {name!r}" if name else ""
            raise CaptureError(
                f"module must be in evaluation mode, but {type(layer).__name__}{where} is in training mode: call eval() first"
            )
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            "module must be a plain torch.nn.Module, got a scripted or traced one: give what it was made from"
        )
    try:
        exact = detached_copy(module)
    except (RuntimeError, TypeError) as error:
        raise CaptureError(f"module must be one that copy.deepcopy can copy, got {error}") from error
    exact = exact.requires_grad_(False).to("cpu", torch.float64).eval()
    for layer in exact.modules():
        vars(layer).update({name: _exact(value) for name, value in own_attributes(layer).items()})
    return exact


def detached_copy(module: nn.Module) -> nn.Module:
    """``copy.deepcopy`` of a module, also where attributes are computed tensors with gradients, as pruning leaves them."""
    computed = [
        value
        for each in module.modules()
        for value in tree_leaves(list(own_attributes(each).values()))
        if isinstance(value, Tensor) and not value.is_leaf  # deepcopy refuses these
    ]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})


def watch_of(module: nn.Module) -> Unchanged | None:
    """Watches the tensors and plain attributes of a module and of all below it; None where that cannot be done."""
    seen = Seen()
    return unchanged(seen.but_contents()) if seen.everything(module, deep=True) else None


def _exact(value: Any) -> Any:
    """Tensors in fp64, also in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to("cpu", torch.float64) if value.is_floating_point() else value.cpu()
    if type(value) in (list, tuple):
        return type(value)(map(_exact, value))
    return {key: _exact(each) for key, each in value.items()} if type(value) is dict else value


def export(module: nn.Module, call: Call, x: Tensor, context: Tensor | None, known: Callable[[Any], bool]) -> Graph:
    """Exports an exact copy for one row of input.

    Args:
        module: in fp64 and evaluation mode.
        call: how it is called.
        x: (1, E).
        context: (1, C) or None.
        known: says of an ATen operation whether it is to be kept whole; others are decomposed.

    Raises:
        CaptureError: it cannot be exported.
    """
    arguments = (x,) if context is None else (x, context)
    try:
        with _quiet(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about torch, not about the module
            rehearse(call, module, x, context)
            exported = torch.export.export(_Called(module, call), arguments, strict=False)
            without_writes(exported.graph, known)
            exported.graph.eliminate_dead_code()  # log-determinants, say, of which nothing is returned
            if any(node.op == "call_function" and not _is_plain(node.target, known) for node in exported.graph.nodes):
                table = torch.export.default_decompositions()
                for target in [each for each in table if known(each)]:
                    del table[target]
                exported = exported.run_decompositions(table)
    except CaptureError:
        raise
    except Exception as error:  # export raises errors of many kinds, some of them internal
        raise CaptureError(_export_message(error, x, context)) from error
    return _graph_of(exported)


_QUIET = threading.RLock()  # loggers, warnings and the stream of errors belong to all threads


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from logging and printing errors that are raised anyway, with the whole graph at that."""
    names = ("torch.export", "torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(name) for name in names]
    with _QUIET:
        levels, errors = [logger.level for logger in loggers], sys.stderr
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            sys.stderr = _OfOthers(errors)  # type: ignore[assignment]
            yield
        finally:
            sys.stderr = errors
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _OfOthers:
    """A stream that drops what this thread writes."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Returns the number of characters."""
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_plain(target: Any, known: Callable[[Any], bool]) -> bool:
    return not isinstance(target, torch._ops.OpOverload) or (known(target) and not target._schema.is_mutable)


def _export_message(error: Exception, x: Tensor, context: Tensor | None) -> str:
    text = str(error)
    kind = type(error).__name__
    with_context = "" if context is None else f" and context {tuple(context.shape)}"
    given = f"x of shape {tuple(x.shape)}{with_context}"
    if "DataDependent" in kind or "data-dependent" in text.lower() or "_local_scalar_dense" in text:
        return (
            "module must not choose its way by values of tensors (an if, a loop or a .item()), but it does"
            f"{_last_user_line(text)}: write it with arithmetic, or with torch.where on constants"
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), kind)
    return (
        f"module must accept {given} in fp64, but it raised {kind}: {first}; check features and context_features, or say "
        "by call how the module is called"
    )


def _last_user_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("File ")]
    of_user = [line for line in lines if _TORCH not in line]
    return f" ({of_user[-1]})" if of_user else ""


def _graph_of(exported: ExportedProgram) -> Graph:
    signature = exported.graph_signature
    constants: dict[str, Any] = {}
    sources: dict[str, str] = {}
    inputs = []
    for spec in signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
            continue
        held = exported.state_dict if spec.target in exported.state_dict else exported.constants
        constants[spec.arg.name] = held[spec.target]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            sources[spec.arg.name] = spec.target.removeprefix("module.")
    nodes = list(exported.graph.nodes)
    results = nodes[-1].args[0]
    kept = [
        result if isinstance(result, fx.Node) else None
        for result, spec in zip(results, signature.output_specs, strict=True)
        if spec.kind == OutputKind.USER_OUTPUT
    ]
    return Graph(nodes[:-1], constants, tuple(inputs), tuple(kept), sources)


def place_of(node: fx.Node) -> str:
    """Where an operation stands in the user's code, in words; empty if that is not known."""
    layers = list((node.meta.get("nn_module_stack") or {}).values())
    layer, place = ("", "")
    if layers and len(layers[-1]) == 2:
        layer, kind = layers[-1]
        layer = str(layer).removeprefix("module").removeprefix(".")
        place = f" in module {layer!r} ({str(kind).rsplit('.', 1)[-1]})" if layer else ""
    frames = list(_frames(node.meta.get("stack_trace") or ""))
    if not frames:
        return place
    where, code = frames[-1]
    return f"{place} in {where}" + (f": {code}" if code else "")


def _frames(trace: str) -> Iterator[tuple[str, str]]:
    lines = [line.strip() for line in trace.splitlines()]
    for index, line in enumerate(lines):
        if line.startswith("File ") and "made_fast/capture/export.py" not in line and f"{_TORCH}nn/" not in line:
            following = lines[index + 1] if index + 1 < len(lines) else ""
            yield line.removeprefix("File ").replace('"', ""), "" if following.startswith("File ") else following
