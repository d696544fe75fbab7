"""Sections of the GPU benchmark about the masked matmuls: forwards of a staircase mask, and training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import WrongResult
from benchmarks.cases import Case, cases_of
from benchmarks.contenders import Rotation
from benchmarks.gpu import model as expectation
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import buffers_for
from benchmarks.gpu.contenders import PlainNetwork, batches
from benchmarks.precision import PRECISIONS, precision
from benchmarks.report import Row
from benchmarks.suites.training import step, useful_macs
from benchmarks.timing import median, ratio
from made_fast import MADE, masked_linear, masks

WIDTHS = (1024, 2048, 4096, 8192)
ROWS = 8192
# Largest relative error (root of the mean square) of a product before it is timed: a few times what the dtype costs.
ALLOWED = {"ieee": 1e-5, "tf32": 2e-3, "bf16": 2e-2}


def measure_forwards(bench: Bench) -> None:
    """Staircase forward against a dense product of the same size and precision."""
    widths = (48,) if bench.quick else WIDTHS
    names = list(PRECISIONS)
    if not bench.cuda and bench.backend == "triton":
        names.remove("bf16")
        bench.skipped.append("Masked forward: bf16, which Triton's interpreter multiplies wrongly")
    for width in widths:
        for name in names:
            bench.add("Masked forward", f"{width} {name}", lambda w=width, n=name: _forward(bench, w, n, "nested"))
    middle = widths[len(widths) // 2]
    for name in names:  # the same mask with its units in any order
        bench.add("Masked forward", f"{middle} {name}, permuted", lambda n=name: _forward(bench, middle, n, "permuted"))


def _degrees(width: int, kind: str, device: torch.device) -> Tensor:
    rows = columns = torch.arange(width)
    if kind == "permuted":
        generator = torch.Generator().manual_seed(0)
        rows, columns = torch.randperm(width, generator=generator), torch.randperm(width, generator=generator)
    return torch.cat([rows, columns]).to(device)


def _forward(bench: Bench, width: int, name: str, kind: str) -> Row:
    """``x @ (W * M).T`` with N x N weights against ``F.linear(x, W, bias)`` with the mask folded in."""
    rows, dtype = 40 if bench.quick else ROWS, PRECISIONS[name].dtype
    degrees = _degrees(width, kind, bench.device)
    mask = masks.connectivity(degrees[:width], degrees[width:])
    bias = torch.randn(width, device=bench.device, dtype=dtype)
    count = buffers_for(dtype.itemsize * width * (rows + width), bench.device)
    inputs = Rotation(
        [
            (torch.randn(rows, width, device=bench.device, dtype=dtype), _masked_weight(width, mask, dtype))
            for _ in range(count)
        ]
    )

    def ours() -> Tensor:
        x, weight = inputs.next()
        return masked_linear(x, weight, degrees, bias, backend=bench.backend)

    def dense() -> Tensor:
        return F.linear(*inputs.next(), bias)

    with precision(name), torch.no_grad():
        _check_product(inputs.next(), bias, degrees, bench.backend, ALLOWED[name])
        times = bench.clock.measure({"ours": ours, "dense": dense}, seconds=bench.seconds)
        counts = expectation.product_counts(ours, rows, dtype.itemsize) if bench.backend == "triton" else {}
    seconds, kept = median(times["ours"]), int(mask.sum())
    flops = 2 * rows * kept
    floor = expectation.product_floor(rows, width, width, kept, dtype.itemsize, bench.ceilings, name)
    return {
        "width": width,
        "precision": name,
        "mask": kind,
        "rows": rows,
        "ours ms": 1e3 * seconds,
        "dense ms": 1e3 * median(times["dense"]),
        "dense / ours": ratio(times, "dense", "ours"),
        "useful TFLOP/s": 1e-12 * flops / seconds,
        "floor ms": 1e3 * floor,
        "share of the floor": floor / seconds,
        **counts,
    }


def _masked_weight(width: int, mask: Tensor, dtype: torch.dtype) -> Tensor:
    weight = torch.randn(width, width, device=mask.device) / width**0.5
    return torch.where(mask, weight, 0).to(dtype)


def _check_product(given: tuple[Tensor, Tensor], bias: Tensor, degrees: Tensor, backend: str, allowed: float) -> None:
    x, weight = given[0][:64], given[1]
    found = masked_linear(x.contiguous(), weight, degrees, bias, backend=backend).double()
    exact = x.double() @ weight.double().T + bias.double()
    error = float((found - exact).norm() / exact.norm())
    if not error <= allowed:
        raise WrongResult(f"the masked product is wrong by {error:.1e} of its size, allowed are {allowed:.0e}")


def measure_steps(bench: Bench) -> None:
    """Forward, loss and backward against the same network in plain torch, eager and compiled."""
    for case in cases_of("gpu, steps", quick=bench.quick):
        for name in ("ieee",) if bench.quick else ("tf32", "bf16", "ieee"):
            title = f"{case.shape_name} {name}"
            bench.add("Training step", title, lambda c=case, n=name: _step(bench, c, n), needs=25)


def _step(bench: Bench, case: Case, name: str) -> Row:
    dtype = PRECISIONS[name].dtype
    torch.manual_seed(0)
    model = MADE(case.features, case.widths).to(bench.device, dtype)
    plain = {"W*mask": PlainNetwork(model, masked=True), "dense": PlainNetwork(model, masked=False)}
    networks: dict[str, nn.Module] = {"ours": model, **plain}
    inputs = batches(case, bench.device, dtype)
    with precision(name):
        _check_gradients(networks, inputs.next()[:256], 20 * ALLOWED[name])
        runs = {key: _run(network, network, inputs) for key, network in networks.items()}
        if bench.cuda:
            torch.compiler.reset()
            compiled = torch.compile(plain["W*mask"], dynamic=False, fullgraph=True)
            runs["W*mask compiled"] = _run(compiled, plain["W*mask"], inputs)
            runs["W*mask compiled"]()
        times = bench.clock.measure(runs, seconds=1.5 * bench.seconds)
    taken = median(times["ours"])
    row: Row = {"hidden": case.hidden, "precision": name, "rows": case.rows, "ours ms": 1e3 * taken}
    others = ("W*mask", "W*mask compiled", "dense")
    row |= {f"{key} / ours": ratio(times, key, "ours") if key in times else "–" for key in others}
    flops = 2 * case.rows * useful_macs(model)["step"]
    row["useful TFLOP/s"] = 1e-12 * flops / taken
    row["share of the product rate"] = flops / taken / bench.ceilings.get(name, float("nan"))
    return row


def _run(network: Any, owner: nn.Module, inputs: Rotation) -> Callable[[], None]:
    """One step of rows in turn; the optimizer is the same for all and left out."""
    parameters = list(owner.parameters())

    def run() -> None:
        step(network, parameters, inputs.next())()

    return run


def _check_gradients(networks: dict[str, nn.Module], x: Tensor, allowed: float) -> None:
    """Ours against plain torch in the same dtype: the gradient of every weight."""
    ours, plain = networks["ours"], networks["W*mask"]
    for network in (ours, plain):
        _run(network, network, Rotation([x]))()
    for number, (layer, weight) in enumerate(zip([*ours.hidden, ours.parameters_layer], plain.weights, strict=True)):
        if bool(layer.weight.grad[~layer.mask].any()):
            raise WrongResult(f"the gradient of layer {number} is not zero under the mask")
        error = float((layer.weight.grad.float() - weight.grad.float()).norm() / weight.grad.float().norm())
        if not error <= allowed:
            raise WrongResult(
                f"the gradient of layer {number} is off by {error:.1e} of its size, allowed: {allowed:.0e}"
            )
