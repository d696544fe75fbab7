"""How wide a layer can be: steps of wide networks by ``fit``, the memory they take, and what bf16 would bring."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import machine, measured_on, table
from made_fast import MADE
from made_fast.training import backward, fit

__all__ = ["wide"]

ROWS, FEATURES = 200, 784
NETWORKS = ((500,), (4000,), (8000,), (8000, 8000))
COLUMNS = ("hidden", "parameters", "ours, fp32", "torch, fp32", "torch, bf16", "fit, a step", "peak memory of fit")


def _quickest(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of processor of the quickest of several calls, after one that is not counted."""
    call()
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def products(rows: int = ROWS, features: int = FEATURES, hidden: int = 4000) -> dict[str, float]:
    """10^9 operations a second of torch's product of rows and weights, by dtype."""
    x, weight, found = torch.randn(rows, features), torch.randn(hidden, features), {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = x.to(dtype), weight.to(dtype)
        seconds = _quickest(lambda left=left, right=right: F.linear(left, right), 20)  # type: ignore[misc]
        found[name] = 2e-9 * rows * features * hidden / max(seconds, 1e-9)
    return found


class _Dense:
    """Forward, loss and backward of the same network by dense products, ``F.linear(x, weight * mask)``."""

    def __init__(self, model: MADE, dtype: torch.dtype) -> None:
        self.dtype, self.direct = dtype, model.direct_layer is not None
        self.layers = [
            (layer.weight.detach().clone().requires_grad_(), layer.mask.to(torch.float32), layer.bias)
            for layer in model.masked_layers
        ]

    def step(self, x: Tensor) -> None:
        """Gradients of fp32 weights, the products in the dtype."""
        *hidden, last = [self._linear(number) for number in range(len(self.layers) - self.direct)]
        h = x.to(self.dtype)
        for linear in hidden:
            h = F.silu(linear(h))
        logits = last(h)
        if self.direct:
            logits = logits + self._linear(-1)(x.to(self.dtype))
        F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum").div(len(x)).backward()
        for weight, _, _ in self.layers:
            weight.grad = None

    def _linear(self, number: int) -> Callable[[Tensor], Tensor]:
        weight, mask, bias = self.layers[number]
        given = None if bias is None else bias.detach().to(self.dtype)
        return lambda h: F.linear(h, (weight * mask).to(self.dtype), given)


def wide(
    networks: tuple[tuple[int, ...], ...] = NETWORKS, features: int = FEATURES
) -> tuple[str, list[dict[str, Any]]]:
    """The table, and its rows; the network that takes the most memory comes last, since a peak never falls."""
    rows: list[dict[str, Any]] = []
    speed = products()
    for hidden in networks:
        x = (torch.rand(5 * ROWS, features) < 0.13).float()
        model = MADE(features, hidden, direct=True, activation="silu")
        batch = x[:ROWS]
        row: dict[str, Any] = {"hidden": " x ".join(map(str, hidden))}
        row["parameters"] = f"{sum(each.numel() for each in model.parameters()):,}"
        row["ours, fp32"] = f"{1e3 * _quickest(lambda model=model, batch=batch: backward(model, batch)):.0f} ms"  # type: ignore[misc]
        model.zero_grad(set_to_none=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        fit(model, x, batch, epochs=2, batch_size=ROWS)
        row["fit, a step"] = f"{1e3 * (time.process_time() - start) / 10:.0f} ms"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row["peak memory of fit"] = f"{peak / (1 << 20 if sys.platform != 'darwin' else 1 << 30):.1f} GiB"
        row["grown"] = peak - before
        for name, dtype in (("torch, fp32", torch.float32), ("torch, bf16", torch.bfloat16)):
            dense = _Dense(model, dtype)
            row[name] = f"{1e3 * _quickest(lambda dense=dense, batch=batch: dense.step(batch), 3):.0f} ms"  # type: ignore[misc]
            del dense
        rows.append(row)
    text = (
        f"Forward, loss and backward of {ROWS} rows of {features} variables with direct connections, milliseconds of "
        "processor, the quickest of several; torch computes `F.linear(x, weight * mask)`, for bf16 from fp32 weights. *fit, "
        "a step* is the mean over two epochs of five, with all that a run begins with, AdamW, the average and the "
        "validation of as many rows twice. The peak is that of the whole process. Torch's product "
        f"of 200 x 784 and 784 x 4,000 alone does {speed['fp32']:.0f} GFLOP/s in fp32 and {speed['bf16']:.0f} in bf16. "
        + measured_on(machine())
    )
    return f"{text}\n\n{table(COLUMNS, rows)}", rows
