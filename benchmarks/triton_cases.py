"""What the Triton backend launches: its own host functions on small CPU tensors, with launches recorded instead of done.

The cases are chosen so that each kernel meets each of its configurations, precisions and modes; an activation function is
seen where it costs most registers. Sizes are multiples of 16, as those of real models are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from made_fast import MADE
from made_fast.backends.triton import draw, pack
from made_fast.backends.triton.launch import Launch, recorded
from made_fast.backends.triton.sampler_configs import SAMPLER
from made_fast.outputs import make_output
from made_fast.schedule import build_schedule

Call = Callable[[], object]
FEATURES, HIDDEN, CONTEXT = 64, 128, 16

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"hidden_features": (HIDDEN, HIDDEN), "activation": "relu"},
    "direct": {"hidden_features": (HIDDEN,), "direct": True, "activation": "tanh"},
    "residual": {"hidden_features": (HIDDEN, HIDDEN, HIDDEN), "residual": True, "activation": "gelu"},
    "context": {"hidden_features": (HIDDEN,), "context_features": CONTEXT, "activation": "silu"},
}


def recorded_calls() -> list[list[Launch]]:
    """For each case, what it launches."""
    return [_recorded(call) for call in _sampler_calls()]


def _recorded(call: Call) -> list[Launch]:
    with recorded() as launches:
        call()
    return launches


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Within the block fp32 products have this precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _sampler_calls() -> Iterator[Call]:
    """The plain model in every mode, configuration and precision; the others in one mode, with and without row numbers."""
    for name, options in MODELS.items():
        model = MADE(FEATURES, **options)
        program = model.program()
        packed = pack(program, build_schedule(program), make_output("bernoulli"))
        for _, config in SAMPLER:
            rows = 2 * config["R"]
            arguments: dict[str, Any] = {"seed": 0, "first_row": 0, "config": config, "mode": "one"}
            if model.context_features:
                arguments["context"] = torch.zeros(rows, CONTEXT)
            if name != "plain":
                yield lambda p=packed, n=rows, a=arguments: draw(p, torch.empty(n, FEATURES), torch.empty(n), **a)
                continue
            for precision in ("highest", "high"):
                with _products(precision):
                    for mode in ("one", "many"):
                        arguments = {**arguments, "mode": mode}
                        yield lambda p=packed, n=rows, a=arguments: draw(
                            p, torch.empty(n, FEATURES), torch.empty(n), **a
                        )
            named = {**arguments, "mode": "one", "rows": torch.arange(rows)}
            yield lambda p=packed, n=rows, a=named: draw(p, torch.empty(n, FEATURES), None, **a)
