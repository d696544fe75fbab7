"""masked_linear on every backend and instruction set: against the definition, law 8 (gradients), law 9 (rounding), law 10."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engines import marks_of, names_of
from quick import some
from torch import Tensor

from made_fast import backends, build_config, masked_linear, masks
from made_fast.backends import reference
from made_fast.masks.plan import MaskPlan, plan_from_mask
from made_fast.programs.functions import ACTIVATIONS

SHAPES = [(1, 1, 1), (5, 3, 2), (16, 16, 16), (17, 33, 50), (40, 70, 300), (300, 260, 37), (33, 600, 5), (70, 20, 600)]
DTYPES = [torch.float32, torch.float64]


def _staircase(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows)[:, None] * columns // rows >= np.arange(columns)[None]


MASKS: dict[str, Callable[[int, int], np.ndarray]] = {
    "staircase": _staircase,
    "shuffled": lambda n, m: _staircase(n, m)[np.random.default_rng(0).permutation(n)][
        :, np.random.default_rng(1).permutation(m)
    ],
    "few_degrees": lambda n, m: np.arange(n)[:, None] % 4 >= np.arange(m)[None] % 5,
    "coins": lambda n, m: np.random.default_rng(2).random((n, m)) < 0.5,
    "sparse": lambda n, m: np.random.default_rng(3).random((n, m)) < 0.03,
    "band": lambda n, m: np.abs(np.arange(n)[:, None] * m / n - np.arange(m)[None]) < 4,
    "blocks": lambda n, m: np.arange(n)[:, None] * 3 // n == np.arange(m)[None] * 3 // m,
    "none": lambda n, m: np.zeros((n, m), dtype=bool),
    "all": lambda n, m: np.ones((n, m), dtype=bool),
}


def _serves(backend: backends.Backend, dtype: torch.dtype) -> bool:
    return backends.why_not(backend, backends.Needs(torch.device("cpu"), dtype)) is None


def _engines() -> dict[str, tuple[Any, dict[str, str]]]:
    """Every backend that plans masks, and each instruction set of the compiled one."""
    found: dict[str, tuple[Any, dict[str, str]]] = {}
    for backend in backends.BACKENDS:
        if not _serves(backend, torch.float32) or backend.name == "reference":
            continue
        module = backends.load(backend)
        if backend.name == "cpp":
            found |= {f"cpp-{isa}": (module, {"isa": isa}) for isa in build_config()["instruction_sets"]}
        else:
            found[backend.name] = (module, {})
    return found


ENGINES = _engines()
SLOW = [pytest.mark.slow]  # the kernels for GPUs have tests of their own


@pytest.fixture(
    params=[pytest.param(name, marks=[*marks_of(name), *SLOW[name != "triton" :]]) for name in ENGINES], scope="module"
)
def products(request: pytest.FixtureRequest) -> tuple[Any, dict[str, str]]:
    return ENGINES[request.param]


def _is_triton(products: tuple[Any, dict[str, str]]) -> bool:
    """Its tiles, and so the order of sums, follow the shape; it has no fp64."""
    return bool(products[0].__name__.endswith("triton"))


def _shapes(products: tuple[Any, dict[str, str]]) -> list[tuple[int, int, int]]:
    return SHAPES[::2] if _is_triton(products) else SHAPES  # interpreted kernels are slow


@pytest.fixture(params=DTYPES, ids=["fp32", "fp64"])
def dtype(request: pytest.FixtureRequest, products: tuple[Any, dict[str, str]]) -> torch.dtype:
    if request.param == torch.float64 and _is_triton(products):
        pytest.skip("no fp64")
    return request.param  # type: ignore[no-any-return]


def _tensors(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, in), weight (out, in), bias (out,), grad (B, out)."""
    out, width, batch = shape
    generator = torch.Generator().manual_seed(out * 1000 + width)
    made = [(batch, width), (out, width), (out,), (batch, out)]
    x, weight, bias, grad = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in made)
    return x, weight, bias, grad


def _results(
    module: Any, extra: dict[str, str], kept: MaskPlan | Tensor, tensors: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    x, weight, bias, grad = tensors
    return {
        "forward": module.masked_linear(x, weight, kept, bias, "identity", **extra),
        "grad_input": module.masked_linear_grad_input(grad, weight, kept, **extra),
        "grad_weight": module.masked_linear_grad_weight(grad, x, kept, **extra),
    }


def _exact(mask: np.ndarray, tensors: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    """In extended precision, where the processor has one."""
    x, weight, bias, grad = (tensor.numpy().astype(np.longdouble) for tensor in tensors)
    kept = np.where(mask, weight, 0)
    return {"forward": x @ kept.T + bias, "grad_input": grad @ kept, "grad_weight": np.where(mask, grad.T @ x, 0)}


def _assert_equal(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found, expected)


def _error(found: Tensor, true: np.ndarray) -> float:
    """Root of the mean square: the largest one of a few hundred errors is luck."""
    return float(np.sqrt(np.mean((found.numpy() - true) ** 2)))


@pytest.mark.parametrize("name", MASKS)
def test_law_9_each_product_rounds_as_well_as_the_reference(products: Any, name: str, dtype: torch.dtype) -> None:
    """Error at most twice the reference's, plus one rounding of values of this size; for every shape."""
    module, extra = products
    for shape in _shapes(products):
        mask = MASKS[name](*shape[:2])
        whole, tensors = torch.from_numpy(mask), _tensors(shape, dtype)
        plain = _results(reference, {}, whole, tensors)
        exact = _exact(mask, tensors)
        for product, found in _results(module, extra, plan_from_mask(mask), tensors).items():
            true = exact[product]
            rounding = torch.finfo(dtype).eps * max(float(np.sqrt(np.mean(true**2))), 1e-300)
            assert found.dtype == dtype
            assert _error(found, true) <= 2 * _error(plain[product], true) + rounding, (shape, product)
            if product == "grad_weight":
                assert (found[~whole] == 0).all(), shape


@pytest.mark.parametrize("name", ["staircase", "shuffled", "coins"])
def test_what_lies_under_the_mask_is_never_read(products: Any, name: str) -> None:
    module, extra = products
    for shape in _shapes(products):
        mask = MASKS[name](*shape[:2])
        whole = torch.from_numpy(mask)
        x, weight, bias, grad = _tensors(shape, torch.float32 if _is_triton(products) else torch.float64)
        poisoned = torch.where(whole, weight, torch.nan).contiguous()
        clean = _results(module, extra, plan_from_mask(mask), (x, weight, bias, grad))
        for product, found in _results(module, extra, plan_from_mask(mask), (x, poisoned, bias, grad)).items():
            assert torch.equal(found, clean[product]), (shape, product)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_are_applied_on_the_way(products: Any, function: str, dtype: torch.dtype) -> None:
    module, extra = products
    x, weight, bias, _ = _tensors((40, 70, 50), dtype)
    mask = MASKS["staircase"](40, 70)
    found = module.masked_linear(x, weight, plan_from_mask(mask), bias, function, **extra)
    expected = reference.masked_linear(x, weight, torch.from_numpy(mask), bias, function)
    torch.testing.assert_close(found, expected)
    no_bias = module.masked_linear(x, weight, plan_from_mask(mask), None, function, **extra)
    torch.testing.assert_close(no_bias, reference.masked_linear(x, weight, torch.from_numpy(mask), None, function))


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 47, 48, 49, 287, 288, 289, 511, 512, 513, 1100])
def test_every_row_of_a_batch_is_computed_alike(products: Any, rows: int) -> None:
    """Rows do not depend on the rows beside them, whatever the tile they fall into; all are written."""
    module, extra = products
    if _is_triton(products) and rows not in (0, 1, 17, 289):
        pytest.skip("interpreted kernels are slow")
    x, weight, bias, grad = _tensors((50, 40, 300 if _is_triton(products) else 1100), torch.float32)
    plan = plan_from_mask(MASKS["shuffled"](50, 40))
    whole = module.masked_linear(x, weight, plan, bias, **extra)
    part = module.masked_linear(x[:rows].contiguous(), weight, plan, bias, **extra)
    same = torch.testing.assert_close if _is_triton(products) else _assert_equal
    same(part, whole[:rows])
    upstream = module.masked_linear_grad_input(grad, weight, plan, **extra)
    same(module.masked_linear_grad_input(grad[:rows].contiguous(), weight, plan, **extra), upstream[:rows])
    sums = module.masked_linear_grad_weight(grad[:rows].contiguous(), x[:rows].contiguous(), plan, **extra)
    expected = torch.where(plan.mask, grad[:rows].double().T @ x[:rows].double(), 0)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-4, atol=1e-3)


def test_the_number_of_threads_changes_no_bit(products: Any, set_threads: Any, dtype: torch.dtype) -> None:
    module, extra = products
    if _is_triton(products):
        pytest.skip("has none")
    for name in ("staircase", "shuffled", "coins"):
        tensors, plan = _tensors((130, 150, 600), dtype), plan_from_mask(MASKS[name](130, 150))
        set_threads(1)
        expected = _results(module, extra, plan, tensors)
        for threads in (2, 3, 8):
            set_threads(threads)
            for product, found in _results(module, extra, plan, tensors).items():
                assert torch.equal(found, expected[product]), (name, threads, product)


@pytest.mark.parametrize("activation", some([None, "relu", "tanh", "sigmoid", "silu", "softplus"], {None, "silu"}))
@pytest.mark.parametrize("name", ["shuffled", "coins"])
def test_law_8_gradients_of_first_and_second_order(backend_name: str, name: str, activation: str | None) -> None:
    if backend_name == "triton":
        pytest.skip("no fp64, which differences need")
    mask = torch.from_numpy(MASKS[name](6, 5))
    x, weight, bias, _ = (tensor.requires_grad_() for tensor in _tensors((6, 5, 3), torch.float64))

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_linear(x, weight, mask, bias, activation=activation, backend=backend_name)

    assert torch.autograd.gradcheck(function, (x, weight, bias))
    assert torch.autograd.gradgradcheck(function, (x, weight, bias))
    function(x, weight, bias).square().sum().backward()
    assert (weight.grad[~mask] == 0).all()


@pytest.fixture(params=[each for each in names_of() if "triton" not in each.values])
def backend_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_degrees_stand_for_their_mask(backend_name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    degrees = torch.randint(0, 12, (40 + 30,), generator=generator)
    mask = masks.connectivity(degrees[:40], degrees[40:])
    dtype = torch.float32 if backend_name == "triton" else torch.float64
    x, weight, bias, grad = (tensor.requires_grad_() for tensor in _tensors((40, 30, 20), dtype))
    for given in (mask, degrees):
        y = masked_linear(x, weight, given, bias, activation="relu", backend=backend_name)
        found = torch.autograd.grad(y, (x, weight, bias), grad)
        expected = reference.masked_linear(x, weight, mask, bias, "relu")
        torch.testing.assert_close(y, expected)
        for own, theirs in zip(found, torch.autograd.grad(expected, (x, weight, bias), grad), strict=True):
            torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("change", ["index", "data", "numpy"])
def test_a_mask_that_changes_in_place_is_another_mask(backend_name: str, change: str) -> None:
    """karpathy's port writes ``mask.data.copy_``: no version counter moves."""
    mask = torch.from_numpy(MASKS["staircase"](20, 20).copy())
    x, weight, _, _ = _tensors((20, 20, 30), torch.float32)
    before = masked_linear(x, weight, mask, backend=backend_name)
    if change == "index":
        mask[:, 0] = False
    elif change == "data":
        mask.data.copy_(mask & (torch.arange(20) > 0))
    else:
        mask.numpy()[:, 0] = False
    after = masked_linear(x, weight, mask, backend=backend_name)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, x @ (weight * mask).T)


def test_auto_takes_a_dense_product_where_nothing_can_be_skipped() -> None:
    coins = MASKS["coins"](200, 200)
    assert not plan_from_mask(coins).pays
    assert plan_from_mask(MASKS["shuffled"](200, 200)).pays
    x, weight, bias, _ = _tensors((200, 200, 64), torch.float32)
    found = masked_linear(x, weight, torch.from_numpy(coins), bias)
    assert torch.equal(found, reference.masked_linear(x, weight, torch.from_numpy(coins), bias))


def test_named_backends_serve_or_say_why_not(backend_name: str) -> None:
    x, weight, _, _ = _tensors((4, 3, 2), torch.float32)
    mask = torch.ones(4, 3, dtype=torch.bool)
    arguments = (x.bfloat16(), weight.bfloat16(), mask)
    if _serves(next(row for row in backends.BACKENDS if row.name == backend_name), torch.bfloat16):
        assert masked_linear(*arguments, backend=backend_name).dtype == torch.bfloat16
    else:
        with pytest.raises(ValueError, match=rf"^backend '{backend_name}' cannot be used: needs .*bfloat16"):
            masked_linear(*arguments, backend=backend_name)
    assert masked_linear(*arguments).dtype == torch.bfloat16
