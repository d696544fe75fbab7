"""What is timed beside a sample, for any output: dense forwards and one naive pass of the same rows.

What the network reads of the rows (one-hot units, embeddings, scaled numbers) is made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import MADE, Sampler
from made_fast.outputs import Conditional, Encoding
from made_fast.programs import Program

SEED = 20
Run = Callable[[], Tensor]
Layers = list[tuple[Tensor, Tensor]]  # weights masked once (out, in), and biases


def sampler(frozen: Sampler, rows: int) -> Run:
    """This package's sampler; weights are packed before the clock starts."""
    return lambda: frozen.sample(rows, seed=SEED)


def dense_linear(frozen: Sampler, x: Tensor) -> Run:
    """One forward by ``F.linear``, weights masked once; one-hot variables are a matrix of zeros and ones."""
    units, layers = frozen.program.encode(x), _layers(frozen.program)

    def run() -> Tensor:
        with torch.no_grad():
            weight, bias = layers[0]
            return _rest(F.linear(units, weight, bias), layers)

    return run


def dense_bag(frozen: Sampler, x: Tensor) -> Run | None:
    """The same with ``F.embedding_bag`` over the one-hot variables; None where there are none."""
    program, layers = frozen.program, _layers(frozen.program)
    first_unit = [0]
    for each in program.input_units:
        first_unit.append(first_unit[-1] + each)
    one_hot = [d for d, each in enumerate(program.conditionals) if each.encoding == Encoding.ONE_HOT]
    if not one_hot:
        return None
    rows = x[:, one_hot].long() + torch.tensor([first_unit[d] for d in one_hot])
    columns = layers[0][0].t().contiguous()  # (E, H)
    others = [d for d in range(program.features) if d not in one_hot]
    numbers, weight = None, layers[0][0][:, :0]
    if others:
        numbers = torch.cat([program.encode_variable(d, x[:, d]) for d in others], dim=1)
        units = [unit for d in others for unit in range(first_unit[d], first_unit[d + 1])]
        weight = layers[0][0][:, units].contiguous()

    def run() -> Tensor:
        with torch.no_grad():
            total = F.embedding_bag(rows, columns, mode="sum")
            bias = layers[0][1]
            total += bias if numbers is None else F.linear(numbers, weight, bias)
            return _rest(total, layers)

    return run


def masked_pass(model: MADE, frozen: Sampler, x: Tensor) -> Run:
    """One of the D forwards of the naive sampler: ``F.linear(x, weight * mask)``, masks in the dtype of the weights."""
    units = frozen.program.encode(x)
    masked = [
        (layer.weight.detach(), layer.mask.to(layer.weight.dtype), layer.bias.detach())
        for layer in (*model.hidden, model.parameters_layer)
    ]

    def run() -> Tensor:
        value = units
        with torch.no_grad():
            for index, (weight, mask, bias) in enumerate(masked):
                value = F.linear(value if index == 0 else F.relu(value), weight * mask, bias)
        return value

    return run


def useful_macs(model: MADE) -> float:
    """Multiply-adds of one row with unmasked weights; of a one-hot variable one column is added, the mean of its columns."""
    columns = model.hidden[0].mask.sum(0).double()  # (E,)
    each = [
        one.mean() * (1 if own.encoding == Encoding.ONE_HOT else own.units) for own, one in _by_variable(model, columns)
    ]
    others = (*list(model.hidden)[1:], model.parameters_layer)
    return float(sum(each)) + sum(int(layer.mask.sum()) for layer in others)


def _by_variable(model: MADE, units: Tensor) -> zip[tuple[Conditional, Tensor]]:
    return zip(model.conditionals, units.split([each.units for each in model.conditionals]), strict=True)


def _layers(program: Program) -> Layers:
    layers = []
    for op in program.affines:
        assert len(op.terms) == 1 and op.bias is not None
        layers.append((op.terms[0].weight, op.bias))
    return layers


def _rest(value: Tensor, layers: Layers) -> Tensor:
    for weight, bias in layers[1:]:
        value = F.linear(F.relu(value), weight, bias)
    return value
