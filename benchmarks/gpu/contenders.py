"""Contenders on a GPU: ways to draw the same rows from the same network, also by CUDA graphs and ``torch.compile``.

Each function returns a callable that returns the rows it drew (noise rows 0 .. B - 1 of ``contenders.SEED``), so that it can
be checked before it is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders import SEED, dense_network, masked_network, uniforms_of
from benchmarks.gpu.clock import Rotation, buffers_for, precision
from made_fast import MADE
from made_fast.sampling import Sampler
from made_fast.testing import unexplained_differences

Draw = Callable[[], Tensor]
Network = Callable[[Tensor], Tensor]
CHECKED = 1024  # rows at each end of a request that are compared with the model's own conditionals
# How near to its threshold a uniform excuses a draw: the error of a probability at this precision.
TOLERANCE = {"ieee": 1e-5, "tf32": 5e-3}


class WrongDraws(Exception):
    """A sampler drew what contradicts the model."""


def captured(run: Callable[[], Tensor]) -> Draw:
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


def ours(sampler: Sampler, rows: int, backend: str, seeds: Rotation) -> Draw:
    """As a user calls it; with seeds in turn, so that no draw repeats the one before."""
    return lambda: sampler.sample(rows, seed=seeds.next(), backend=backend)


def ours_in_mode(sampler: Sampler, rows: int, mode: str) -> Draw:
    """The Triton backend in one of its ways to launch."""
    module, packed = sampler._ready("triton")
    out = torch.empty(rows, sampler.features, device=sampler.program.device)

    def run() -> Tensor:
        module.draw(packed, out, None, seed=SEED, first_row=0, mode=mode)
        return out

    return run


def step_by_step(forward: Network, model: MADE, rows: int) -> Draw:
    """D forwards, one variable drawn after each. Nothing waits for the device, so it can be captured."""
    uniforms, order = uniforms_of(model, rows), model.order.tolist()
    x = torch.empty_like(uniforms)

    def run() -> Tensor:
        x.zero_()
        with torch.no_grad():
            for variable in order:
                x[:, variable] = (uniforms[:, variable] < torch.sigmoid(forward(x)[:, variable])).float()
        return x

    return run


class _MaskedNetwork(nn.Module):
    """``F.linear(x, weight * mask, bias)`` with buffers, whose addresses ``torch.compile`` knows to be fixed."""

    def __init__(self, model: MADE) -> None:
        super().__init__()
        layers = [*model.hidden, model.parameters_layer]
        self.count = len(layers)
        for number, layer in enumerate(layers):
            self.register_buffer(f"weight{number}", layer.weight.detach().clone())
            self.register_buffer(f"mask{number}", layer.mask.to(layer.weight.dtype))
            self.register_buffer(f"bias{number}", layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.count):
            weight, mask, bias = (getattr(self, f"{name}{number}") for name in ("weight", "mask", "bias"))
            x = F.linear(F.relu(x) if number else x, weight * mask, bias)
        return x


def step_by_step_compiled(model: MADE, rows: int) -> Draw:
    """Each of the D forwards by ``torch.compile(mode="reduce-overhead")``, which replays a CUDA graph."""
    torch.compiler.reset()
    compiled = torch.compile(_MaskedNetwork(model), mode="reduce-overhead", dynamic=False, fullgraph=True)

    def forward(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # what the pass before returned may be overwritten
        return compiled(x)

    return step_by_step(forward, model, rows)


class Jacobi:
    """Song et al. 2021: guess all variables, run the network, draw all again, until nothing changes. Masks folded.

    Attributes:
        passes: how many the last draw took.
    """

    def __init__(self, model: MADE, rows: int, *, graphed: bool) -> None:
        self.forward, self.uniforms = dense_network(model), uniforms_of(model, rows)
        self.features, self.passes = model.features, 0
        self.x = torch.zeros_like(self.uniforms)
        self.changed = torch.zeros((), dtype=torch.bool, device=self.x.device)
        self.one = captured(self._pass) if graphed else self._pass

    def _pass(self) -> Tensor:
        with torch.no_grad():
            drawn = (self.uniforms < torch.sigmoid(self.forward(self.x))).float()
            self.changed.copy_((drawn != self.x).any())
            self.x.copy_(drawn)
        return self.changed

    def __call__(self) -> Tensor:
        self.x.zero_()
        for passes in range(1, self.features + 2):
            self.passes = passes
            if not bool(self.one()):  # waits for the device
                break
        return self.x


def dense(model: MADE, rows: int) -> tuple[Callable[[], Tensor], Rotation]:
    """One dense forward with the masks folded in, of rows that are not in the cache; and those rows."""
    forward = dense_network(model)
    device = model.parameters_layer.weight.device
    count = buffers_for(4 * rows * model.features, device)
    inputs = Rotation([(torch.rand(rows, model.features, device=device) < 0.13).float() for _ in range(count)])

    def run() -> Tensor:
        with torch.no_grad():
            return forward(inputs.next())

    return run, inputs


def own_forward(model: MADE, inputs: Rotation) -> Callable[[], Tensor]:
    """One masked forward by this package."""

    def run() -> Tensor:
        with torch.no_grad():
            return model(inputs.next())

    return run


def check(name: str, model: MADE, x: Tensor, *, tolerance: float, seed: int = SEED) -> None:
    """Refuses to time a sampler whose draws contradict the model: the first and the last rows are compared.

    Raises:
        WrongDraws: with the name and how many of them are wrong.
    """
    starts = [0] if len(x) <= CHECKED else [0, len(x) - CHECKED]
    for start in starts:
        part = x[start : start + CHECKED].float()
        if not bool(((part == 0) | (part == 1)).all()):
            raise WrongDraws(f"{name} wrote values that are neither 0 nor 1")
        with precision("ieee"), plain_torch():
            wrong = unexplained_differences(model, part, seed=seed, first_row=start, tolerance=tolerance)
        if bool(wrong.any()):
            raise WrongDraws(f"{name} drew {int(wrong.sum())} of {wrong.numel()} values that contradict the model")


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within the block models run on the reference, so that no kernel is judged by another one."""
    before = os.environ.get("MADE_FAST_BACKEND")
    os.environ["MADE_FAST_BACKEND"] = "reference"
    try:
        yield
    finally:
        del os.environ["MADE_FAST_BACKEND"]
        if before is not None:
            os.environ["MADE_FAST_BACKEND"] = before


def samplers(model: MADE, frozen: Sampler, rows: int, backend: str, *, cuda: bool, compiled: bool) -> dict[str, Any]:
    """All ways to draw, by name: makers, since some take seconds to build and may fail."""
    masked, folded = masked_network(model), dense_network(model)
    seeds = Rotation([SEED])
    found: dict[str, Callable[[], Draw]] = {"ours": lambda: ours(frozen, rows, backend, seeds)}
    if backend == "triton":
        found |= {f"ours, {mode}": lambda mode=mode: ours_in_mode(frozen, rows, mode) for mode in ("one", "many")}
    found["Jacobi"] = lambda: Jacobi(model, rows, graphed=False)
    found["naive"] = lambda: step_by_step(masked, model, rows)
    if cuda:
        found["Jacobi, CUDA graph"] = lambda: Jacobi(model, rows, graphed=True)
        found["naive, CUDA graph"] = lambda: captured(step_by_step(masked, model, rows))
        found["naive, masks folded, CUDA graph"] = lambda: captured(step_by_step(folded, model, rows))
    if cuda and compiled:
        found["naive, torch.compile"] = lambda: step_by_step_compiled(model, rows)
    return found
