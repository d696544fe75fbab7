"""The masked matmuls of the Triton backend: tiles of every kind, in tables, kernels and compiled code.

The kernels run under the interpreter (``TRITON_INTERPRET=1``, set before the process starts) or on a GPU. The tables are
tested everywhere, and so is what the compilers make of the kernels, for GPUs that are not there.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from quick import some
from torch import Tensor
from torch.library import opcheck

from made_fast import masked_linear
from made_fast.backends import reference
from made_fast.layers import operators as ops
from made_fast.masks.plan import MaskPlan, plan_from_mask
from made_fast.programs.functions import ACTIVATIONS

pytest.importorskip("triton", reason="triton is not installed")

from made_fast.backends.triton import launch
from made_fast.backends.triton.launch import Config
from made_fast.backends.triton.masked import launches as matmul
from made_fast.backends.triton.masked import sizes as configs

pytestmark = pytest.mark.triton
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16] if INTERPRETED else [torch.float32, torch.float16, torch.bfloat16]

LACKS = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU, or TRITON_INTERPRET=1 in the environment"
)


def runs(test: Any) -> Any:
    """A test that runs kernels."""
    return pytest.mark.interpreter(LACKS(test))


def _staircase(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows)[:, None] * columns // rows >= np.arange(columns)[None]


def _permuted(rows: int, columns: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return _staircase(rows, columns)[generator.permutation(rows)][:, generator.permutation(columns)]


MASKS: dict[str, Callable[[int, int], np.ndarray]] = {
    "staircase": _staircase,
    "strict": lambda n, m: ~_staircase(m, n).T,  # rows and columns at the edge that have nothing
    "rows": lambda n, m: _staircase(n, m)[np.random.default_rng(0).permutation(n)],
    "columns": lambda n, m: _staircase(n, m)[:, np.random.default_rng(0).permutation(m)],
    "permuted": _permuted,
    "steep": lambda n, m: np.arange(n)[:, None] >= n // 2 + 0 * np.arange(m)[None],  # all or nothing
    "coins": lambda n, m: np.random.default_rng(2).random((n, m)) < 0.5,
    "sparse": lambda n, m: np.random.default_rng(3).random((n, m)) < 0.02,
    "blocks": lambda n, m: np.arange(n)[:, None] * 3 // n == np.arange(m)[None] * 3 // m,
    "none": lambda n, m: np.zeros((n, m), dtype=bool),
}
SHAPES = [(1, 1, 1), (1, 50, 3), (50, 1, 3), (3, 2, 70), (16, 16, 16), (65, 64, 17)]
# Small enough for full, partial and empty chunks in a matrix of 70 columns; with rows of the mask first, and not.
CONFIGS = [
    Config.of(4, 2, BB=16, BN=16, BK=16),
    Config.of(4, 1, BB=16, BN=64, BK=16),
    Config.of(4, 3, BB=64, BN=32, BK=32),
]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds nan, so that what is not written is seen."""
    new_empty = Tensor.new_empty

    def poisoned(self: Tensor, *size: int, **options: torch.dtype) -> Tensor:
        made = new_empty(self, *size, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(Tensor, "new_empty", poisoned)


def _tensors(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x (B, in), weight (out, in), bias (out,), grad (B, out)."""
    out, width, batch = shape
    generator = torch.Generator().manual_seed(out * 1000 + width)
    sizes = [(batch, width), (out, width), (out,), (batch, out)]
    return tuple(torch.randn(size, generator=generator).to(DEVICE, dtype) for size in sizes)


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype, terms: int) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * max(1, terms) ** 0.5)


def _check(mask: np.ndarray, batch: int, dtype: torch.dtype, config: Config | None, outer: Config | None) -> None:
    """All three products against the definition in fp64, with nan under the mask."""
    plan, whole = plan_from_mask(mask), torch.from_numpy(mask).to(DEVICE)
    x, weight, bias, grad = _tensors((*mask.shape, batch), dtype)
    poisoned = torch.where(whole, weight, torch.nan).contiguous()
    exact = [each.double() for each in (x, weight, bias, grad)]
    found = matmul.masked_linear(x, poisoned, plan, bias, "identity", config=config)
    _close(found, reference.masked_linear(exact[0], exact[1], whole, exact[2]), dtype, mask.shape[1])
    found = matmul.masked_linear_grad_input(grad, poisoned, plan, config=config)
    _close(found, reference.masked_linear_grad_input(exact[3], exact[1], whole), dtype, mask.shape[0])
    found = matmul.masked_linear_grad_weight(grad, x, plan, config=outer)
    _close(found, reference.masked_linear_grad_weight(exact[3], exact[0], whole), dtype, batch)
    assert (found[~whole] == 0).all()


@runs
@pytest.mark.parametrize("name", some([*MASKS], {"permuted", "coins", "strict"}))
@pytest.mark.parametrize("config", some(CONFIGS, CONFIGS[:1]))
def test_every_kind_of_chunk(name: str, config: Config) -> None:
    _check(MASKS[name](50, 70), 21, torch.float32, config, config)
    _check(MASKS[name](33, 47), 5, torch.float16, config, config)


@runs
@pytest.mark.parametrize("dtype", some(DTYPES, {torch.float32}))
@pytest.mark.parametrize(
    "shape", some([(1, 1, 1), (1, 50, 3), (50, 1, 3), (3, 2, 70), (16, 16, 16), (65, 64, 17)], {(1, 50, 3)})
)
def test_shapes_that_are_multiples_of_nothing(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    for name in ("staircase", "permuted", "sparse"):
        _check(MASKS[name](*shape[:2]), shape[2], dtype, None, None)


@pytest.mark.slow
@runs
@pytest.mark.parametrize("name", some(["staircase", "permuted", "coins"], {"permuted"}))
def test_a_batch_in_parts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The batch is split, the parts are added in order, and nothing depends on the run."""
    monkeypatch.setattr(configs, "MIN_PART", 16)
    mask, config = MASKS[name](40, 36), Config.of(4, 2, BB=16, BN=32, BK=16)
    x, _, _, grad = _tensors((40, 36, 150), torch.float32)
    count, rows = configs.batch_parts(150, 6, 16)
    assert count > 1
    assert (count - 1) * rows < 150 <= count * rows
    _check(mask, 150, torch.float32, CONFIGS[0], config)
    plan = plan_from_mask(mask)
    first = matmul.masked_linear_grad_weight(grad, x, plan, config=config)
    assert torch.equal(matmul.masked_linear_grad_weight(grad, x, plan, config=config), first)


@runs
@pytest.mark.parametrize("dtype", some(DTYPES, {torch.float32}))
@pytest.mark.parametrize("function", some(ACTIVATIONS, {"gelu", "softplus"}))
def test_activations_of_a_sum_in_fp32(function: str, dtype: torch.dtype) -> None:
    mask = MASKS["permuted"](20, 30)
    x, weight, bias, _ = _tensors((20, 30, 9), dtype)
    for given in (bias, None):
        found = matmul.masked_linear(x, weight, plan_from_mask(mask), given, function)
        exact = (
            x.double(),
            weight.double(),
            torch.from_numpy(mask).to(DEVICE),
            None if given is None else given.double(),
        )
        _close(found, reference.masked_linear(*exact, function), dtype, 30)


@runs
@pytest.mark.parametrize("activation", some([None, "relu", "tanh", "sigmoid", "silu"], {"silu"}))
@pytest.mark.parametrize("dtype", some(DTYPES, {torch.float32}))
def test_gradients_of_both_orders(dtype: torch.dtype, activation: str | None) -> None:
    """Through the operators, in the dtype of the inputs, as well as plain torch has them."""
    mask = torch.from_numpy(MASKS["permuted"](12, 10)).to(DEVICE)
    given = [tensor.mul(0.5).requires_grad_() for tensor in _tensors((12, 10, 9), dtype)[:3]]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]

    def derived(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> list[Tensor]:
        y = masked_linear(x, weight, mask, bias, activation=activation, backend=backend)
        first = torch.autograd.grad(y.square().sum() / 16, (x, weight, bias), create_graph=True)
        second = torch.autograd.grad(
            sum((each.square().sum() / 16 for each in first), y.new_zeros(())), (x, weight, bias)
        )
        return [y, *first, *second]

    tolerance = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    for found, true in zip(derived(*given, "triton"), derived(*exact, "reference"), strict=True):
        assert found.dtype == dtype
        scale = float(true.detach().abs().max())
        torch.testing.assert_close(found.double(), true, rtol=tolerance, atol=tolerance * scale)


@runs
@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_no_row_and_of_one(rows: int) -> None:
    _check(MASKS["staircase"](20, 30), rows, torch.float32, None, None)
    x, weight = torch.ones(0, 30, device=DEVICE), torch.ones(20, 30, device=DEVICE, requires_grad=True)
    masked_linear(x, weight, torch.from_numpy(_staircase(20, 30)).to(DEVICE), backend="triton").sum().backward()
    assert (weight.grad == 0).all()


@runs
def test_panels_of_the_batch_cover_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_PANEL_BYTES", 2 * 16 * 30 * 4)  # two tiles of the batch, the last panel is short
    _check(MASKS["permuted"](40, 30), 70, torch.float32, CONFIGS[0], CONFIGS[0])


@runs
@pytest.mark.parametrize("name", some(["staircase", "columns", "permuted", "coins"], {"columns"}))
def test_a_long_batch_may_read_the_weight_transposed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(matmul, "_LONG_BATCH", 20)
    _check(MASKS[name](40, 30), 20, torch.float32, CONFIGS[0], CONFIGS[0])


@runs
@pytest.mark.parametrize("name", some(["permuted", "coins"], {"coins"}))
def test_the_operators_are_as_torch_wants_them(name: str) -> None:
    mask = torch.from_numpy(MASKS[name](12, 10)).to(DEVICE)
    x, weight, bias, grad = (each.requires_grad_() for each in _tensors((12, 10, 9), torch.float32))
    opcheck(ops.masked_linear, (x, weight, mask, bias, "relu", "triton"))
    opcheck(ops.masked_linear_grad_input, (grad, weight, mask, "triton"))
    opcheck(ops.masked_linear_grad_weight, (grad, x, mask, "triton"))


@runs
def test_compiled_by_torch() -> None:
    mask = torch.from_numpy(MASKS["permuted"](12, 10)).to(DEVICE)
    x, weight, bias, _ = (each.requires_grad_() for each in _tensors((12, 10, 9), torch.float32))

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_linear(x, weight, mask, bias, activation="tanh", backend="triton").square().sum()

    y = torch.compile(function, backend="aot_eager", fullgraph=True)(x, weight, bias)
    expected = function(x, weight, bias)
    torch.testing.assert_close(y, expected)
    both = (torch.autograd.grad(each, (x, weight, bias)) for each in (y, expected))
    torch.testing.assert_close(*both)


@runs
def test_what_stays_on_the_device_is_made_once() -> None:
    plan = plan_from_mask(MASKS["coins"](40, 30))
    x, weight, bias, _ = _tensors((40, 30, 5), torch.float32)
    matmul.masked_linear(x, weight, plan, bias)
    made = dict(plan.made)
    matmul.masked_linear(x, weight, plan, bias)
    assert made.keys() == plan.made.keys()
    assert all(plan.made[key] is made[key] for key in made)


def _read(plan: MaskPlan, name: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """What the tables say: how often each connection is in a chunk, and which are in full ones."""
    side = getattr(plan, name)
    tables = matmul._make_tables(plan, name, rows, columns, torch.device("cpu"))
    order = tables.arguments["columns"].numpy()
    count, full = (np.zeros((len(side.rows), len(side.columns)), dtype=int) for _ in range(2))
    lengths = []
    for tile, first, full_from, full_to, end in tables.tiles.tolist():
        assert first <= full_from <= full_to <= end
        lengths.append(end - first)
        members = side.rows[tile * rows :][:rows]
        for chunk in range(first, end):
            places = order[chunk * columns :][:columns]
            there = places[places >= 0]
            assert len(there) == columns or not full_from <= chunk < full_to
            count[np.ix_(members, there)] += 1
            full[np.ix_(members, there)] += full_from <= chunk < full_to
    assert lengths == sorted(lengths, reverse=True)
    assert len({tile for tile, *_ in tables.tiles.tolist()}) == -(-len(side.rows) // rows)
    assert len(tables.pairs) == sum(lengths)
    return count, full


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (32, 16), (16, 64), (64, 32)])
def test_tables_hold_the_mask_and_skip_the_rest(name: str, rows: int, columns: int) -> None:
    mask = MASKS[name](90, 130)
    plan = plan_from_mask(mask)
    for side, kept in (("forward", mask), ("backward", mask.T)):
        count, full = _read(plan, side, rows, columns)
        assert count.max() <= 1
        assert (count[kept] == 1).all()
        assert kept[full > 0].all()
    if name in ("staircase", "permuted") and (rows, columns) == (16, 16):
        assert _read(plan, "forward", rows, columns)[0].mean() < 0.66
        assert _read(plan, "forward", rows, columns)[1].sum() > 0.5 * mask.sum()


def test_tiles_fill_the_gpu_or_are_the_smallest() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        candidates = configs.matmul_candidates(dtype, gathered=False)
        assert configs.matmul_config(candidates, 1 << 16, 4096) == candidates[0]
        assert configs.matmul_config(candidates, 1, 64) == candidates[-1]
        assert configs.matmul_config(candidates, 1, 1 << 20)["BB"] == 16
        outer = configs.outer_candidates(dtype, gathered=False)
        assert configs.outer_config(outer, 1 << 16, (4096, 4096)) == outer[0]
        assert configs.outer_config(outer, 64, (64, 64)) == outer[-1]


@pytest.mark.parametrize("batch", [1, 255, 256, 1000, 4096, 100_003])
@pytest.mark.parametrize("tiles", [0, 1, 7, 131, 264, 5000])
def test_parts_of_a_batch(batch: int, tiles: int) -> None:
    count, rows = configs.batch_parts(batch, tiles, 32)
    assert rows % 32 == 0
    assert (count - 1) * rows < batch <= count * rows
    assert count == 1 or (rows >= configs.MIN_PART and (count - 1) * tiles < 2 * configs.PROGRAMS)


def test_autotuning_leaves_alone_what_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_FAST_TRITON_AUTOTUNE", "1")
    x, weight, bias, _ = (tensor.cpu() for tensor in _tensors((4, 3, 2), torch.float32)) if INTERPRETED else [
        torch.ones(size) for size in ((2, 3), (4, 3), (4,), (2, 4))
    ]  # fmt: skip
    with launch.recorded() as launches:
        matmul.masked_linear(x, weight, plan_from_mask(_staircase(4, 3)), bias)
    assert len(launches) == 1


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
def test_autotuning_chooses_one_of_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_FAST_TRITON_AUTOTUNE", "1")
    for name in ("staircase", "permuted", "coins"):
        _check(MASKS[name](300, 260), 700, torch.float32, None, None)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
def test_more_elements_than_an_int_counts() -> None:
    mask = np.arange(40)[:, None] * 20 >= np.arange(1024)[None]
    plan, whole = plan_from_mask(mask), torch.from_numpy(mask).to(DEVICE)
    x = torch.zeros(2**21 + 3, 1024, dtype=torch.float16, device=DEVICE)
    x[-3:] = torch.randn(3, 1024, device=DEVICE)
    weight, grad = torch.randn(40, 1024, device=DEVICE).half(), torch.ones(len(x), 40, device=DEVICE).half()
    found = matmul.masked_linear(x, weight, plan)
    _close(found[-3:], reference.masked_linear(x[-3:].double(), weight.double(), whole), torch.float16, 1024)
    found = matmul.masked_linear_grad_weight(grad, x, plan)
    exact = reference.masked_linear_grad_weight(grad[-3:].double(), x[-3:].double(), whole)
    _close(found, exact, torch.float16, 3)
