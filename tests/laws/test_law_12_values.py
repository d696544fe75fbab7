"""Law 12: values leave in a type that holds them, or an error says which type does."""

from pathlib import Path

import pytest
import torch
from engines import names_of
from models import Case, context_of, dtypes_of, made

from made_fast import MADE
from made_fast.datasets.samples import write_rows
from made_fast.outputs.categorical import Categorical

HALF = [torch.bfloat16, torch.float16]
HOLD = {  # output -> types that hold its values
    "bernoulli": (torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32),
    "spin": (torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32),
    "categorical": (torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32),
    "mixture_of_logistics": (torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32),
    "normal": (torch.float32, torch.float64),
}


@pytest.mark.parametrize("backend", names_of(torch.float64))
@pytest.mark.parametrize("output", HOLD)
def test_result_dtypes(output: str, backend: str) -> None:
    for option in ("orders", "context"):
        model = made(output, option, dtypes_of(backend)[-1])
        context = context_of(model, 2)
        expected = model.sample(30, context, seed=1, backend=backend)
        for dtype in HOLD[output]:
            found, log_prob = model.sample_and_log_prob(30, context, seed=1, dtype=dtype, backend=backend)
            assert found.dtype == model.sample(3, context, dtype=dtype, backend=backend).dtype == dtype
            torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-6)
            assert log_prob.dtype == next(model.parameters()).dtype


@pytest.mark.parametrize("backend", names_of(torch.float64))
def test_smallest_requests(backend: str) -> None:
    model, given = made("bernoulli", "direct", features=9), made("bernoulli", "context", features=9)
    ensemble = made("bernoulli", "orders", features=9)
    context = torch.zeros(2, 3)
    for each in (model, ensemble):
        assert each.sample(0, seed=1, backend=backend).shape == (0, 9)
        assert each.sample(1, seed=1, backend=backend).shape == (1, 9)
        assert [t.shape for t in each.sample_and_log_prob(0, backend=backend)] == [(0, 9), (0,)]
    assert given.sample(0, context, backend=backend).shape == (2, 0, 9)
    assert given.sample(4, context[:0], backend=backend).shape == (0, 4, 9)
    assert [t.shape for t in given.sample_and_log_prob(1, context, backend=backend)] == [(2, 1, 9), (2, 1)]
    one = MADE(1, (3,)).sample(50, seed=1, backend=backend)
    assert one.shape == (50, 1)
    assert one.unique().tolist() == [0, 1]


not_yet = pytest.mark.xfail(strict=True, reason="no type is refused: values wrap, are cut off or rounded")
WRONG = [
    ("spin", torch.uint8),
    ("spin", torch.bool),
    ("categorical", torch.bool),
    ("normal", torch.int64),
    ("mixture_of_normals", torch.uint8),
]


@not_yet
@pytest.mark.parametrize(("output", "dtype"), WRONG)
@pytest.mark.parametrize("option", ["random", "orders"])
def test_types_that_do_not_hold_the_values_are_refused(output: str, dtype: torch.dtype, option: str) -> None:
    with pytest.raises(ValueError, match=r"^dtype "):
        made(output, option).sample(3, dtype=dtype)


@not_yet
@pytest.mark.parametrize(("size", "dtype"), [(300, torch.uint8), (200, torch.int8), (300, torch.bfloat16)])
def test_many_categories_need_a_larger_type(size: int, dtype: torch.dtype) -> None:
    model = MADE(3, (4,), output=Categorical(size))
    with pytest.raises(ValueError, match=r"^dtype "):
        model.sample(3, dtype=dtype)
    assert model.sample(3, dtype=torch.int64).max() < size


@not_yet
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_that_does_not_hold_the_categories_is_refused(dtype: torch.dtype) -> None:
    """2**8 of bf16 and 2**11 of fp16 are the last whole numbers without a gap."""
    size = 300 if dtype == torch.bfloat16 else 2100
    model = MADE(2, (4,), output=Categorical(size)).to(dtype)
    with pytest.raises(ValueError, match=r"dtype"):
        model.sample(3)
    assert model.sample(3, dtype=torch.int64).max() < size


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("option", ["residual_direct_context", "conditioned"])
def test_half_precision_is_drawn_in_fp32(option: str, dtype: torch.dtype) -> None:
    model = Case("bernoulli", option).make(dtype)
    context = context_of(model, 4)
    x, log_prob = model.sample_and_log_prob(20, context, seed=2)
    in_single = Case("bernoulli", option).make(dtype).float()
    expected = in_single.sample_and_log_prob(20, context.float(), seed=2)
    assert x.dtype == dtype
    assert torch.equal(x.float(), expected[0])
    torch.testing.assert_close(log_prob.float(), expected[1].to(log_prob.dtype).float())
    assert model.sampler() is model.sampler()


@not_yet
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_files_of_samples_hold_bits_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"0 and 1|0 or 1"):
        write_rows(tmp_path / name, [2 * torch.eye(4, dtype=torch.uint8)], 4, 4)
