"""Masked matmuls and training on a GPU: against fp64, law 9 (rounding), the same bits each time, training steps."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from gpu_device import DEVICE, needs_cuda, needs_device, sized
from torch import Tensor

from made_fast import MADE, backends, masked_linear, masks
from made_fast.backends import reference

pytestmark = needs_device

# name -> dtype, torch's precision of fp32 products, the size of one rounding of a factor
ARITHMETIC = {
    "fp32": (torch.float32, "highest", 2.0**-23),
    "tf32": (torch.float32, "high", 2.0**-10),
    "bf16": (torch.bfloat16, "highest", 2.0**-7),
    "fp16": (torch.float16, "highest", 2.0**-10),
}
HALF = [torch.bfloat16, torch.float16]
if DEVICE == "cpu":  # Triton's interpreter multiplies the bits of bf16 as if they were integers
    del ARITHMETIC["bf16"], HALF[0]
SHAPES = [(1, 1), (33, 65), (300, 784), (256, 256)] if DEVICE == "cuda" else [(1, 1), (33, 65)]  # out, in
BATCHES = [0, 1, 7, 64, 1000, 5000] if DEVICE == "cuda" else [0, 1, 7, 40]


def _degrees(out: int, width: int) -> Tensor:
    """int64 (out + in,), evenly spread."""
    return torch.cat([torch.arange(out) * width // out, torch.arange(width)])


def _nested(out: int, width: int) -> Tensor:
    degrees = _degrees(out, width)
    return masks.connectivity(degrees[:out], degrees[out:])


def _permuted(out: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.randperm(out, generator=generator), torch.randperm(width, generator=generator)
    return _nested(out, width)[rows][:, columns].contiguous()


def _blocks(out: int, width: int) -> Tensor:
    """Not nested: three groups of units that see nothing of each other."""
    return (torch.arange(out)[:, None] * 3 // out) == (torch.arange(width)[None] * 3 // width)


MASKS: dict[str, Callable[[int, int], Tensor]] = {
    "nested": _nested,
    "permuted": _permuted,
    "degrees": _degrees,
    "blocks": _blocks,
    "none": lambda out, width: torch.zeros(out, width, dtype=torch.bool),
}


@pytest.fixture(params=ARITHMETIC)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[tuple[torch.dtype, float]]:
    dtype, precision, rounding = ARITHMETIC[request.param]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    yield dtype, rounding
    torch.set_float32_matmul_precision(before)


def _tensors(out: int, width: int, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the result, in fp64 on the CPU but exact in ``dtype``."""
    generator = torch.Generator().manual_seed(batch * 7919 + out)
    shapes = [(batch, width), (out, width), (out,), (batch, out)]
    x, weight, bias, grad = (torch.randn(shape, generator=generator).to(dtype).double() for shape in shapes)
    return x, weight, bias, grad


def _whole(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    return masks.whole_mask(mask, shape)


def _products(tensors: tuple[Tensor, ...], mask: Tensor, product: Callable[..., Tensor]) -> dict[str, Tensor]:
    """The result and its gradients, as fp64 on the CPU."""
    x, weight, bias, grad = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    y = product(x, weight, mask, bias)
    found = torch.autograd.grad(y, (x, weight, bias), grad.detach())
    named = {"forward": y.detach(), **dict(zip(("grad_input", "grad_weight", "grad_bias"), found, strict=True))}
    return {name: tensor.double().cpu() for name, tensor in named.items()}


def _plain(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    return reference.masked_linear(x, weight, _whole(mask, tuple(weight.shape)), bias)


def _ours(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    return masked_linear(x, weight, mask, bias, backend="triton")


def _error(found: Tensor, true: Tensor) -> float:
    return float((found - true).square().mean().sqrt()) if found.numel() else 0.0


@pytest.mark.parametrize("name", MASKS)
def test_law_9_products_round_as_well_as_those_of_torch(arithmetic: tuple[torch.dtype, float], name: str) -> None:
    """Against fp64: at most twice the error of torch's dense product of the same precision, and one rounding."""
    dtype, rounding = arithmetic
    for out, width in SHAPES:
        mask = MASKS[name](out, width)
        for batch in BATCHES:
            exact = _tensors(out, width, batch, dtype)
            true = _products(exact, mask, _plain)
            tensors = tuple(tensor.to(DEVICE, dtype) for tensor in exact)
            plain = _products(tensors, mask.to(DEVICE), _plain)
            for product, found in _products(tensors, mask.to(DEVICE), _ours).items():
                assert found.shape == true[product].shape
                allowed = 2 * _error(plain[product], true[product]) + rounding * _error(true[product], found * 0)
                assert _error(found, true[product]) <= allowed, (product, out, width, batch)
                if product == "grad_weight":
                    assert not found[~_whole(mask, (out, width))].any(), (out, width, batch)


@pytest.mark.parametrize("name", ["nested", "permuted", "blocks"])
def test_what_lies_under_the_mask_is_never_used(arithmetic: tuple[torch.dtype, float], name: str) -> None:
    dtype, _ = arithmetic
    mask = MASKS[name](70, 90).to(DEVICE)
    x, weight, bias, grad = (tensor.to(DEVICE, dtype) for tensor in _tensors(70, 90, 50, dtype))
    clean = _products((x, weight, bias, grad), mask, _ours)
    poisoned = torch.where(mask, weight, torch.nan)
    for product, found in _products((x, poisoned, bias, grad), mask, _ours).items():
        assert torch.equal(found, clean[product]), product


@pytest.mark.parametrize("name", ["permuted", "blocks"])
def test_the_same_bits_each_time(arithmetic: tuple[torch.dtype, float], name: str) -> None:
    dtype, _ = arithmetic
    out, width, batch = sized(500, 40), sized(784, 50), sized(3000, 30)
    mask = MASKS[name](out, width).to(DEVICE)
    tensors = tuple(tensor.to(DEVICE, dtype) for tensor in _tensors(out, width, batch, dtype))
    first = _products(tensors, mask, _ours)
    for _ in range(sized(5, 1)):
        for product, found in _products(tensors, mask, _ours).items():
            assert torch.equal(found, first[product]), product


@pytest.mark.slow
@needs_cuda
def test_batches_of_more_elements_than_32_bits_count() -> None:
    """B * in > 2**31: rows far behind are right, and the gradient of the weight sums over all of them."""
    width, out, batch, tail = 1024, 64, 2**21 + 77, 333
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GiB of free memory on the GPU")
    mask = _permuted(out, width).to(DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(1)
    x, weight, grad = (
        torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.bfloat16)
        for shape in ((batch, width), (out, width), (batch, out))
    )
    assert x.numel() > 2**31
    y = masked_linear(x, weight, mask, backend="triton")
    grad_input = torch.ops.made_fast.masked_linear_grad_input(grad, weight, mask, "triton")
    for rows in (slice(0, tail), slice(batch - tail, batch)):
        exact = torch.where(mask, weight, 0).double()
        torch.testing.assert_close(y[rows].double(), x[rows].double() @ exact.T, rtol=0.02, atol=0.2)
        torch.testing.assert_close(grad_input[rows].double(), grad[rows].double() @ exact, rtol=0.02, atol=0.2)
    del y, grad_input
    grad[:-tail] = 0  # what is left is the sum over the last rows
    grad_weight = torch.ops.made_fast.masked_linear_grad_weight(grad, x, mask, "triton")
    expected = torch.where(mask, grad[-tail:].double().T @ x[-tail:].double(), 0)
    torch.testing.assert_close(grad_weight.double(), expected, rtol=0.02, atol=0.5)


def _losses(model: MADE, x: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["random", "direct_deep", "residual", "silu"])
def test_training_steps_are_those_of_the_cpu(build: Any, every_option: dict[str, Any], name: str) -> None:
    model = build({**every_option[name], "hidden_features": (40, 40, 40)}, torch.float64, features=30)
    x = (torch.rand(64, 30, generator=torch.Generator().manual_seed(4)) < 0.4).double()
    on_device = build({**every_option[name], "hidden_features": (40, 40, 40)}, torch.float32, features=30).to(DEVICE)
    steps = sized(8, 2)
    found = _losses(on_device, x.float().to(DEVICE), steps)
    assert found == pytest.approx(_losses(model, x, steps), rel=1e-4)
    for ours, expected in zip(on_device.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.detach().cpu().double(), expected.detach(), rtol=1e-3, atol=1e-4)


@needs_cuda
def test_a_model_can_be_compiled() -> None:
    torch.manual_seed(0)
    model = MADE(50, (100, 70), direct=True, order="random").to(DEVICE)
    x = (torch.rand(64, 50, device=DEVICE) < 0.3).float()
    expected = model(x)
    gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    compiled = torch.compile(model, fullgraph=True, dynamic=False)(x)
    found = torch.autograd.grad(compiled.square().sum(), list(model.parameters()))
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@needs_cuda
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = MADE(50, (100, 70)).to(DEVICE)
    x = (torch.rand(64, 50, device=DEVICE) < 0.3).float()
    with torch.autocast("cuda", dtype=dtype):
        nats = model.log_prob(x)
    torch.testing.assert_close(nats.float(), model.log_prob(x), rtol=0.02, atol=0.2)
    nats.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_models(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = MADE(20, (40, 30)).to(DEVICE, dtype)
    x = (torch.rand(64, 20) < 0.3).to(DEVICE, dtype)
    expected = MADE(20, (40, 30)).double()
    expected.load_state_dict(
        {name: t.double() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    )
    torch.testing.assert_close(model(x).double().cpu(), expected(x.double().cpu()), rtol=0.05, atol=0.05)
    model.log_prob(x).float().mean().backward()
    for layer in model.masked_layers:
        assert not layer.weight.grad[~layer.mask].any()
        assert layer.weight.grad.isfinite().all()


def test_auto_takes_the_kernels_where_they_pay() -> None:
    """With a nested mask and enough rows ``auto`` gives the bits of the named backend."""
    chosen = backends.choose("auto", backends.Needs(device=torch.device(DEVICE), dtype=torch.float32))
    if DEVICE == "cuda":
        assert chosen.name == "triton"
    x, weight, bias, _ = (tensor.to(DEVICE, torch.float32) for tensor in _tensors(64, 96, 128, torch.float32))
    mask = _nested(64, 96).to(DEVICE)
    found = masked_linear(x, weight, mask, bias)
    torch.testing.assert_close(found, _plain(x, weight, mask, bias), rtol=1e-4, atol=1e-4)
