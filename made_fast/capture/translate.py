"""From ATen operations to operations of a program: a graph is run on symbols."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx
from torch.utils._pytree import tree_any

from made_fast.capture.export import CaptureError, Graph, place_of
from made_fast.capture.symbols import Builder, Symbol
from made_fast.capture.translators import TRANSLATORS, Refusal, is_symbol
from made_fast.programs.functions import FUNCTIONS

__all__ = ["is_known", "translate"]


def translate(graph: Graph, builder: Builder, inputs: tuple[Symbol, ...]) -> list[Any]:
    """Runs a graph on symbols: the results, symbols or constant tensors; what adds to the program goes to the builder.

    Operations without a symbol among their arguments are run as they are, once: whatever does not depend on the input is a
    constant.

    Raises:
        CaptureError: an operation has no translation.
    """
    known: dict[fx.Node, Any] = {}
    symbols = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = symbols[node.name] if node.name in symbols else graph.constants[node.name]
            continue
        if node.op != "call_function":
            raise CaptureError(
                f"module must be of plain operations, but its graph has a node {node.op!r}{place_of(node)}"
            )
        arguments, options = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        try:
            known[node] = _applied(builder, node.target, arguments, options)
        except Refusal as reason:
            raise CaptureError(_message(node, str(reason))) from None
        except (RuntimeError, TypeError, IndexError, NotImplementedError) as error:
            raise CaptureError(_message(node, f"it failed with these arguments ({error})")) from error
    return [None if node is None else known[node] for node in graph.outputs]


def _applied(builder: Builder, target: Any, arguments: Any, options: Any) -> Any:
    if target is operator.getitem or not tree_any(is_symbol, (arguments, options)):
        return target(*arguments, **options)
    translator = TRANSLATORS.get(target)
    if translator is None:
        raise Refusal("it has no translation")
    return translator(builder, *arguments, **options)


def _message(node: fx.Node, reason: str) -> str:
    name = str(node.target).removesuffix(".default")
    return (
        f"operation {name} on values that depend on the input cannot be captured{place_of(node)}: {reason}; linear maps, "
        f"elementwise functions ({', '.join(FUNCTIONS)} and what follows from them), products, indexing and joining can be. "
        "Move other operations out of the module, into the output or into call"
    )


def is_known(target: Any) -> bool:
    """Whether an ATen operation has a translator."""
    return target in TRANSLATORS
