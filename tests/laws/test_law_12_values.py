"""Law 12: values leave in a type that holds them, or an error says which type does."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import names_of
from models import Case, context_of, dtypes_of, made
from torch import Tensor

from made_fast import MADE
from made_fast.datasets.samples import write_rows
from made_fast.flows.maf import MaskedAutoregressiveFlow
from made_fast.outputs import PLAIN, Categorical, Conditional, Decoding, Mixed, MixtureOfLogistics, Own

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


EVERY = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.uint16),
]
LARGE = {
    "300 categories": Categorical(300),
    "3000 categories": Categorical([2, 3000, 2]),
    "one category": Categorical(1),
    "1000 levels": MixtureOfLogistics(2, levels=1000),
    "spins and 200 categories": Mixed(["spin", Categorical(200), "spin"]),
}


@pytest.mark.parametrize("num_masks", [1, 2])
@pytest.mark.parametrize("output", [*HOLD, "mixture_of_normals", *LARGE])
def test_every_type_holds_the_values_or_is_refused(output: str, num_masks: int) -> None:
    """And the types that a refusal names do hold them."""
    torch.manual_seed(1)
    chosen = LARGE.get(output) or made(output, "biases", features=3).output
    model = MADE(3, (16,), output=chosen, num_masks=num_masks).double()
    expected = model.sample(500, seed=1)
    real = any(each.values() is None for each in model.conditionals)
    refused = {}
    for dtype in EVERY:
        try:
            x, log_prob = model.sample_and_log_prob(500, seed=1, dtype=dtype)
        except ValueError as error:
            refused[dtype] = str(error).partition(";")[0]
            continue
        rounding = torch.finfo(dtype).eps if real else 0.0
        assert x.dtype == dtype
        assert torch.equal(model.sample(500, seed=1, dtype=dtype), x)
        torch.testing.assert_close(x.double(), expected, rtol=rounding, atol=rounding)
        assert log_prob.dtype == torch.float64
    for named in refused.values():
        assert named.startswith("dtype must hold the values"), named
        assert {str(dtype) for dtype in EVERY if dtype not in refused} == set(re.findall(r"torch\.\w+", named)), named
    assert {torch.float64} <= set(EVERY) - set(refused) < set(EVERY)
    wrong = ("float64", torch.float64.__str__, 1, float)
    for name in wrong:
        with pytest.raises(ValueError, match=r"^dtype must be a torch\.dtype, got"):
            model.sample(3, dtype=name)


def test_numbers_that_overflow_are_refused() -> None:
    """fp16 ends at 65504; a value beyond it would be infinite."""
    model = MADE(2, (), output="normal")
    with torch.no_grad():
        model.parameters_layer.bias.copy_(torch.tensor([1e5, 0.0, 0.0, 0.0]))
    for each in (model, MADE(2, (), output="normal", num_masks=2)):
        each.load_state_dict(model.state_dict(), strict=False)
        assert each.sample(3, dtype=torch.bfloat16).isfinite().all()
        with pytest.raises(
            ValueError, match=r"dtype must hold the values that were drawn, got torch\.float16 for 1\d{5}|9\d{4}"
        ):
            each.sample(3, dtype=torch.float16)


class Counts(Conditional):
    """1000 or 1000.5: nobody is told which values it has."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        return 1000 + 0.5 * (params[..., 0] > 0)


def test_values_of_an_own_distribution_are_looked_at_one_by_one() -> None:
    model = MADE(2, (), output=Own(Counts()))
    for half, dtypes in ((False, (torch.int16, torch.int64, torch.float16, torch.float64)), (True, (torch.float16,))):
        with torch.no_grad():
            model.parameters_layer.bias.fill_(1.0 if half else -1.0)
        for dtype in dtypes:
            assert model.sample(4, dtype=dtype).double().eq(1000 + 0.5 * half).all()
    with pytest.raises(ValueError, match=r"got torch\.int64 for 1000\.5"):
        model.sample(4, dtype=torch.int64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_flows_round_at_the_end_alone(dtype: torch.dtype) -> None:
    flow = MaskedAutoregressiveFlow(4, hidden_features=(16,), transforms=3)
    expected = flow.sample(50, seed=1)
    x, log_prob = flow.sample_and_log_prob(50, seed=1, dtype=dtype)
    assert x.dtype == dtype
    assert torch.equal(x, expected.to(dtype))
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, flow.log_prob(expected))
    with pytest.raises(ValueError, match=r"^dtype must hold"):
        flow.sample(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^dtype must hold"):
        flow.rsample(3, dtype=torch.int64)
    assert torch.equal(flow.rsample(50, seed=1, dtype=dtype), flow.rsample(50, seed=1).to(dtype))


@pytest.mark.parametrize(("size", "dtype"), [(300, torch.uint8), (200, torch.int8), (300, torch.bfloat16)])
def test_many_categories_need_a_larger_type(size: int, dtype: torch.dtype) -> None:
    model = MADE(3, (4,), output=Categorical(size))
    with pytest.raises(ValueError, match=r"^dtype "):
        model.sample(3, dtype=dtype)
    assert model.sample(3, dtype=torch.int64).max() < size


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


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_files_of_samples_hold_what_they_are_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    twos = 2 * torch.eye(4, dtype=torch.uint8)
    for chunks, dtype, message in (
        ([twos], torch.bool, "bits must be 0 or 1, got 2"),
        ([twos], torch.int16, r"must have dtype torch\.int16 like the file, got torch\.uint8"),
        ([twos.float()], torch.bool, r"must have dtype torch\.bool"),
        ([twos[:, :3]], torch.uint8, r"must have shape \(n, 4\)"),
        ([twos[:3]], torch.uint8, r"4 rows in all, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            write_rows(path, chunks, 4, 4, dtype)
        assert not list(tmp_path.iterdir())
    write_rows(path, [twos], 4, 4, torch.uint8)
    found = np.load(path)
    assert (found == twos.numpy()).all() if suffix == ".npy" else (found["samples"] == twos.numpy()).all()
