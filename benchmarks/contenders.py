"""The contenders: ways to draw samples, or to run one dense forward, from the same network.

Each is a function of a ``Case``'s model and rows that returns a callable to time. Samplers return the rows they drew, so
that the runner can check them before it times them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import mkldnn

from made_fast import MADE, masks, noise

SEED = 20
Run = Callable[[], Tensor]


def sampler(model: MADE, rows: int, backend: str) -> Run:
    """This package's cached sampler; weights are packed before the clock starts."""
    frozen = model.sampler()
    return lambda: frozen.sample(rows, seed=SEED, backend=backend)


def engine(model: MADE, rows: int, *, isa: str, rows_at_once: int = 0) -> Run:
    """The compiled engine on one instruction set."""
    from made_fast.backends import cpp  # here, so that the other contenders need no compiled module

    _, packed = model.sampler()._ready("cpp")
    out = torch.empty(rows, model.features)

    def run() -> Tensor:
        cpp.draw(packed, out, None, seed=SEED, first_row=0, isa=isa, rows_at_once=rows_at_once)
        return out

    return run


def naive(model: MADE, rows: int) -> Run:
    """(a) D forwards of ``F.linear(x, weight * mask)``: what everybody runs, masks in the dtype of the weights."""
    forward = masked_network(model)
    return lambda: _step_by_step(forward, model, rows)


def masked_pass(model: MADE, rows: int) -> Run:
    """One of those D forwards."""
    forward, x = masked_network(model), _some_rows(model, rows)
    return lambda: without_grad(forward, x)


def naive_folded(model: MADE, rows: int) -> Run:
    """The same with the masks multiplied into the weights once."""
    forward = dense_network(model)
    return lambda: _step_by_step(forward, model, rows)


def jacobi(model: MADE, rows: int) -> Run:
    """Song et al. 2021: guess all variables, run the network, draw all again, until nothing changes. Masks folded."""
    forward = dense_network(model)
    uniforms = uniforms_of(model, rows)

    def run() -> Tensor:
        x = _nothing_drawn(model, rows)
        with torch.no_grad():
            for _ in range(model.features):
                drawn = (uniforms < torch.sigmoid(forward(x))).float()
                if torch.equal(drawn, x):
                    break
                x = drawn
        return x

    return run


def jacobi_passes(model: MADE, rows: int) -> int:
    """How many passes ``jacobi`` takes until nothing changes."""
    forward, uniforms = dense_network(model), uniforms_of(model, rows)
    x = _nothing_drawn(model, rows)
    with torch.no_grad():
        for count in range(1, model.features + 2):
            drawn = (uniforms < torch.sigmoid(forward(x))).float()
            if torch.equal(drawn, x):
                return count
            x = drawn
    return model.features + 1


def dense(model: MADE, rows: int) -> Run:
    """(b) One dense forward of the same rows, weights masked once."""
    forward, x = dense_network(model), _some_rows(model, rows)
    return lambda: without_grad(forward, x)


def own_forward(model: MADE, rows: int) -> Run:
    """One masked forward by this package, of the same rows."""
    x = _some_rows(model, rows)
    return lambda: without_grad(model, x)


def dense_onednn(model: MADE, rows: int) -> Run:
    """(c) The same through oneDNN, weights packed by it."""
    layers = [(F.relu if index else None, linear) for index, linear in enumerate(_linears(model))]
    packed = [(act, mkldnn.to_mkldnn(linear)) for act, linear in layers]
    x = _some_rows(model, rows)

    def forward(x: Tensor) -> Tensor:
        value = x.to_mkldnn()
        for act, linear in packed:
            value = linear(value if act is None else act(value))
        return value.to_dense()

    return lambda: without_grad(forward, x)


def masked_network(model: MADE) -> Callable[[Tensor], Tensor]:
    """The network as most libraries have it: the mask is multiplied into the weight in every forward."""
    layers = [
        (layer.weight.detach(), layer.mask.to(layer.weight.dtype), layer.bias.detach())
        for layer in (*model.hidden, model.parameters_layer)
    ]

    def forward(x: Tensor) -> Tensor:
        for index, (weight, mask, bias) in enumerate(layers):
            x = F.linear(x if index == 0 else F.relu(x), weight * mask, bias)
        return x

    return forward


def dense_network(model: MADE) -> Callable[[Tensor], Tensor]:
    """The network with masks folded into plain weights; any options."""
    return model.program().evaluate


def _linears(model: MADE) -> list[torch.nn.Linear]:
    linears = []
    for layer in (*model.hidden, model.parameters_layer):
        linear = torch.nn.Linear(layer.in_features, layer.out_features)
        with torch.no_grad():
            linear.weight.copy_(layer.weight * layer.mask)
            linear.bias.copy_(layer.bias)
        linears.append(linear.eval())
    return linears


def _some_rows(model: MADE, rows: int) -> Tensor:
    return model.sample(rows, seed=SEED + 1)


def _nothing_drawn(model: MADE, rows: int) -> Tensor:
    return torch.zeros(rows, model.features, device=model.parameters_layer.weight.device)


def uniforms_of(model: MADE, rows: int, first_row: int = 0) -> Tensor:
    """The uniforms (rows, D) that draw these noise rows, on the device of the model."""
    row = torch.arange(first_row, first_row + rows, device=model.parameters_layer.weight.device)
    return noise.uniform(SEED, row[:, None], masks.rank_of(model.order))


def without_grad(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One forward pass."""
    with torch.no_grad():
        return forward(x)


def _step_by_step(forward: Callable[[Tensor], Tensor], model: MADE, rows: int) -> Tensor:
    x, uniforms = _nothing_drawn(model, rows), uniforms_of(model, rows)
    with torch.no_grad():
        for variable in model.order.tolist():
            x[:, variable] = (uniforms[:, variable] < torch.sigmoid(forward(x)[:, variable])).float()
    return x
