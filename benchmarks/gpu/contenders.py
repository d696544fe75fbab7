"""Contenders that need a GPU, or are timed there: CUDA graphs, ``torch.compile``, buffers that leave the cache.

Samplers draw noise rows 0 .. B - 1 of ``contenders.SEED``, so that they can be checked before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.contenders import (
    SEED,
    Jacobi,
    Rotation,
    Run,
    dense_network,
    masked_network,
    one_pass,
    sampler,
    step_by_step,
)
from benchmarks.gpu.clock import buffers_for
from made_fast import MADE
from made_fast.requests import Piece
from made_fast.sampling import Sampler

CHECKED = 1024  # rows at each end of a request that are compared with the model's own conditionals
# How near to its threshold a uniform excuses a draw: the error of a probability at this precision.
TOLERANCE = {"ieee": 1e-5, "tf32": 5e-3}


def captured(run: Run) -> Run:
    """The same work as one CUDA graph, which is replayed; ``run`` may not wait for the device."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # whatever is made at first use is made outside the graph
        run()
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def ours_in_mode(frozen: Sampler, rows: int, mode: str) -> Run:
    """The Triton backend in one of its ways to launch."""
    module, packed = frozen._ready("triton")
    out = torch.empty(rows, frozen.features, device=frozen.program.device)

    def run() -> Tensor:
        module.draw(packed, out, Piece(SEED), mode=mode)
        return out

    return run


class PlainNetwork(nn.Module):
    """The same network in plain torch as a module: ``torch.compile`` knows that the addresses of its tensors are fixed.

    Args:
        model: the network.
        masked: whether each forward is ``F.linear(x, weight * mask, bias)``; else the weights as they are, without masks.
    """

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


def step_by_step_compiled(model: MADE, rows: int) -> Run:
    """Each of the D forwards by ``torch.compile(mode="reduce-overhead")``, which replays a CUDA graph."""
    torch.compiler.reset()
    plain = PlainNetwork(model, masked=True).requires_grad_(False)
    compiled = torch.compile(plain, mode="reduce-overhead", dynamic=False, fullgraph=True)

    def forward(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # what the pass before returned may be overwritten
        return compiled(x)

    return step_by_step(forward, model, rows)


def batches(case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> Rotation:
    """Rows of bits on the device, in so many buffers that the cache does not hold the next one."""
    count = buffers_for(dtype.itemsize * case.rows * case.features, device)
    shape = case.rows, case.features
    return Rotation([(torch.rand(shape, device=device) < 0.13).to(dtype) for _ in range(count)])


def forwards(model: MADE, inputs: Rotation) -> dict[str, Run]:
    """One dense forward with the masks folded in, and one masked forward by this package."""
    return {"dense": one_pass(dense_network(model), inputs), "own forward": one_pass(model, inputs)}


def samplers(
    model: MADE, frozen: Sampler, rows: int, backend: str, *, cuda: bool, compiled: bool
) -> dict[str, Callable[[], Run]]:
    """All ways to draw, by name: makers, since some take seconds to build and may fail."""
    masked, folded = masked_network(model), dense_network(model)
    makers: dict[str, Callable[[], Run]] = {"ours": lambda: sampler(frozen, rows, backend)}
    if backend == "triton":
        makers |= {f"ours, {mode}": lambda mode=mode: ours_in_mode(frozen, rows, mode) for mode in ("one", "many")}
    makers["Jacobi"] = lambda: Jacobi(model, rows)
    makers["naive"] = lambda: step_by_step(masked, model, rows)
    if cuda:
        makers["Jacobi, CUDA graph"] = lambda: Jacobi(model, rows, captured)
        makers["naive, CUDA graph"] = lambda: captured(step_by_step(masked, model, rows))
        makers["naive, masks folded, CUDA graph"] = lambda: captured(step_by_step(folded, model, rows))
    if cuda and compiled:
        makers["naive, torch.compile"] = lambda: step_by_step_compiled(model, rows)
    return makers
