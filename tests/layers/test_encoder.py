"""What the network reads of the variables: units, products that skip zeros, their derivatives, and what is never made."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from made_fast import MADE
from made_fast.layers.encoder import Encoder, read, read_layer
from made_fast.layers.linear import MaskedLinear, masked_linear
from made_fast.outputs.categorical import Categorical
from made_fast.outputs.codes import Encoding
from made_fast.outputs.kinds import Mixed
from made_fast.outputs.mixtures import MixtureOfLogistics
from made_fast.outputs.output import Output

D, B, H = 5, 6, 4
OUTPUTS: dict[str, Output] = {
    "one_hot": Categorical((3, 2, 4, 1, 5)),
    "embedding": Categorical((3, 2, 4, 1, 5), embedding=2),
    "levels": MixtureOfLogistics(2, levels=8),
    "mixed": Mixed(
        ["normal", Categorical(4), Categorical(3, embedding=2), MixtureOfLogistics(1, levels=5), Categorical(2)]
    ),
}
every_output = pytest.mark.parametrize("output", OUTPUTS)
every_mask = pytest.mark.parametrize("kind", ["scattered", "degrees", "empty"])


def _x(output: str, *shape: int) -> Tensor:
    """Values of every variable, fp64 (..., D)."""
    columns = []
    for conditional in OUTPUTS[output].conditionals(D):
        values = conditional.values()
        real = values is None
        columns.append(torch.randn(shape, dtype=torch.float64) if real else values[torch.randint(len(values), shape)])
    return torch.stack(columns, -1)


def _encoder(output: str) -> Encoder:
    return Encoder(OUTPUTS[output].conditionals(D)).double()


def _weights(encoder: Encoder, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    units = encoder.num_units
    mask = {
        "scattered": torch.rand(H, units) < 0.6,
        "degrees": torch.randint(0, 4, (H + units,)),
        "empty": torch.zeros(H, units, dtype=torch.bool),
    }[kind]
    return torch.randn(H, units, dtype=torch.float64), mask, torch.randn(H, dtype=torch.float64)


@every_output
def test_units_are_those_of_each_conditional(output: str) -> None:
    encoder, x = _encoder(output), _x(output, B, 3)
    units, first = [], 0
    for variable, conditional in enumerate(encoder.conditionals):
        if conditional.encoding == Encoding.EMBEDDING:
            assert encoder.embedding is not None
            rows = encoder.embedding[first + x[..., variable].long(), : conditional.units]
            first += conditional.size
            units.append(rows)
        else:
            units.append(conditional.encode(x[..., variable]))
    found = encoder(x)
    assert found.shape == (B, 3, encoder.num_units)
    assert torch.equal(found, torch.cat(units, -1))


@every_mask
@every_output
def test_products_are_those_of_the_units(output: str, kind: str) -> None:
    """Values and gradients of the sum over drawn columns, against the product with zeros."""
    encoder, x = _encoder(output), _x(output, B, 3)
    weight, mask, bias = _weights(encoder, kind)
    leaves = [weight.requires_grad_(), bias.requires_grad_(), *encoder.parameters()]
    found = read(encoder, x, weight, mask, bias, "tanh")
    expected = masked_linear(encoder(x), weight, mask, bias, activation="tanh")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(found)
    ours, plain = (torch.autograd.grad(each, leaves, grad, materialize_grads=True) for each in (found, expected))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    if kind == "empty":
        assert not ours[0].any()


@every_mask
@every_output
def test_gradients_of_any_order(output: str, kind: str) -> None:
    """The table of embeddings is reached through the encoder: numerical differences change it in place."""
    encoder, x = _encoder(output), _x(output, 3)
    weight, mask, bias = _weights(encoder, kind)
    if output == "levels":  # others have categories, which cannot be moved by a little
        x.requires_grad_()
    inputs = (x, weight.requires_grad_(), bias.requires_grad_(), *encoder.parameters())

    def product(x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
        return read(encoder, x, weight, mask, bias, "tanh")

    assert torch.autograd.gradcheck(product, inputs)
    assert torch.autograd.gradgradcheck(product, inputs)


@every_output
def test_under_transforms_of_functions(output: str) -> None:
    """Where autograd functions of one's own cannot go, the product with zeros serves."""
    encoder, x = _encoder(output), _x(output, B)
    weight, mask, bias = _weights(encoder, "scattered")

    def total(weight: Tensor, x: Tensor) -> Tensor:
        return read(encoder, x, weight, mask, bias, "tanh").square().sum()

    by_rows = torch.func.vmap(torch.func.grad(total), (None, 0))(weight, x)
    expected = [torch.autograd.grad(total(weight.requires_grad_(), row), weight)[0] for row in x]
    torch.testing.assert_close(by_rows, torch.stack(expected))


class Sizes(TorchDispatchMode):
    """Notes the shapes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.found.add(tuple(each.shape))
        return made


@pytest.mark.parametrize("output", ["one_hot", "mixed"])
def test_zeros_of_categories_are_never_made(output: str) -> None:
    """No tensor of a row for each of the batch and a column for each unit, forward or backward."""
    encoder, rows = _encoder(output), 37
    x, layer = _x(output, rows), MaskedLinear(encoder.num_units, H, torch.rand(H, encoder.num_units) < 0.6).double()
    whole = (rows, encoder.num_units)
    with Sizes() as sizes:
        read_layer(encoder, x, layer, None, "tanh").sum().backward()
    assert (rows, H) in sizes.found
    assert whole not in sizes.found and whole[::-1] not in sizes.found
    with Sizes() as sizes:  # the test can fail
        layer(encoder(x)).sum().backward()
    assert whole in sizes.found


@every_output
def test_tables_lie_as_programs_hold_them(output: str) -> None:
    model = MADE(D, (8,), output=OUTPUTS[output])
    if model.encoder is None or model.encoder.embedding is None:
        assert output in ("one_hot", "levels")
        return
    flat, at, first = model.encoder.flat_tables(), 0, 0
    assert flat is not None and not flat.requires_grad
    for conditional in model.conditionals:
        if conditional.encoding == Encoding.EMBEDDING:
            count = conditional.size * conditional.units
            own = model.encoder.embedding[first : first + conditional.size, : conditional.units]
            assert torch.equal(flat[at : at + count].reshape(conditional.size, -1), own)
            at, first = at + count, first + conditional.size
    assert at == len(flat)
