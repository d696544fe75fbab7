"""Sections of the GPU benchmark about the masked matmuls: forwards of a staircase mask, and training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import gpu_model
from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.clock import Rotation, buffers_for, median, precision
from benchmarks.timing import ratio
from made_fast import MADE, masked_linear, masks

WIDTHS = (1024, 2048, 4096, 8192)
ROWS = 8192
DTYPES = {"ieee": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
# Largest relative error (root of the mean square) of a product before it is timed: a few times what the dtype costs.
ALLOWED = {"ieee": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
STEPS = ((784, 2048, 2), (784, 4096, 2), (784, 1024, 2))


def measure_forwards(bench: Bench) -> None:
    """Staircase forward against a dense product of the same size and precision."""
    widths = (48,) if bench.quick else WIDTHS
    names = list(DTYPES)
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
    rows, dtype = 40 if bench.quick else ROWS, DTYPES[name]
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
        counts = gpu_model.product_counts(ours, rows, dtype.itemsize) if bench.backend == "triton" else {}
    seconds, kept = median(times["ours"]), int(mask.sum())
    flops = 2 * rows * kept
    floor = gpu_model.product_floor(rows, width, width, kept, dtype.itemsize, bench.ceilings, name)
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
        raise ValueError(f"the masked product is wrong by {error:.1e} of its size, allowed are {allowed:.0e}")


class _Plain(nn.Module):
    """The same network in plain torch: ``F.linear(x, weight * mask)``, or without masks."""

    def __init__(self, model: MADE, *, masked: bool) -> None:
        super().__init__()
        layers = [*model.hidden, model.parameters_layer]
        self.weights = nn.ParameterList([nn.Parameter(layer.weight.detach().clone()) for layer in layers])
        self.biases = nn.ParameterList([nn.Parameter(layer.bias.detach().clone()) for layer in layers])
        self.masked = masked
        for number, layer in enumerate(layers):
            self.register_buffer(f"mask{number}", layer.mask.to(layer.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            used = weight * getattr(self, f"mask{number}") if self.masked else weight
            x = F.linear(F.relu(x) if number else x, used, bias)
        return x


def measure_steps(bench: Bench) -> None:
    """Forward, loss and backward against the same network in plain torch, eager and compiled."""
    for shape in ((6, 40, 2),) if bench.quick else STEPS:
        for name in ("ieee",) if bench.quick else ("tf32", "bf16", "ieee"):
            title = f"{'x'.join(map(str, shape))} {name}"
            bench.add("Training step", title, lambda s=shape, n=name: _step(bench, s, n), needs=25)


def _step(bench: Bench, shape: tuple[int, int, int], name: str) -> Row:
    rows, dtype = 24 if bench.quick else ROWS, DTYPES[name]
    torch.manual_seed(0)
    model = MADE(shape[0], (shape[1],) * shape[2]).to(bench.device, dtype)
    networks: dict[str, nn.Module] = {"ours": model}
    networks |= {"W*mask": _Plain(model, masked=True), "dense": _Plain(model, masked=False)}
    for network in networks.values():
        network.to(bench.device)
    count = buffers_for(dtype.itemsize * rows * shape[0], bench.device)
    inputs = Rotation([(torch.rand(rows, shape[0], device=bench.device) < 0.13).to(dtype) for _ in range(count)])
    with precision(name):
        _check_gradients(networks, inputs.next()[:256], 20 * ALLOWED[name])
        runs = {key: _run(network, network, inputs) for key, network in networks.items()}
        if bench.cuda:
            torch.compiler.reset()
            plain = networks["W*mask"]
            compiled = torch.compile(plain, dynamic=False, fullgraph=True)
            runs["W*mask compiled"] = _run(compiled, plain, inputs)
            runs["W*mask compiled"]()
        times = bench.clock.measure(runs, seconds=1.5 * bench.seconds)
    row: Row = {"hidden": shape[1], "precision": name, "rows": rows, "ours ms": 1e3 * median(times["ours"])}
    others = ("W*mask", "W*mask compiled", "dense")
    row |= {f"{key} / ours": ratio(times, key, "ours") if key in times else "–" for key in others}
    kept = sum(int(layer.mask.sum()) for layer in model.masked_layers)
    products = 3 * kept - int(model.hidden[0].mask.sum())  # nobody asks for the gradient of the first input
    flops = 2 * rows * products
    row["useful TFLOP/s"] = 1e-12 * flops / median(times["ours"])
    row["share of the product rate"] = flops / median(times["ours"]) / bench.ceilings.get(name, float("nan"))
    return row


def _run(network: Any, owner: nn.Module, inputs: Rotation) -> Callable[[], None]:
    """One step: forward, loss, backward; the optimizer is the same for all and left out."""
    parameters = list(owner.parameters())

    def run() -> None:
        x = inputs.next()
        for parameter in parameters:
            parameter.grad = None
        F.binary_cross_entropy_with_logits(network(x), x, reduction="sum").backward()

    return run


def _check_gradients(networks: dict[str, nn.Module], x: Tensor, allowed: float) -> None:
    """Ours against plain torch in the same dtype: the gradient of every weight."""
    _run(networks["ours"], networks["ours"], Rotation([x]))()
    _run(networks["W*mask"], networks["W*mask"], Rotation([x]))()
    layers = [*networks["ours"].hidden, networks["ours"].parameters_layer]
    for number, (layer, weight) in enumerate(zip(layers, networks["W*mask"].weights, strict=True)):
        if bool(layer.weight.grad[~layer.mask].any()):
            raise ValueError(f"the gradient of layer {number} is not zero under the mask")
        error = float((layer.weight.grad.float() - weight.grad.float()).norm() / weight.grad.float().norm())
        if not error <= allowed:
            raise ValueError(
                f"the gradient of layer {number} is off by {error:.1e} of its size, allowed: {allowed:.0e}"
            )
