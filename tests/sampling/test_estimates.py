"""Numbers that come from samples: known values, intervals that cover as often as they say, and what is nan."""

import math
import warnings

import pytest
import torch

from made_fast import MADE, estimation
from made_fast.sampling.estimates import (
    effective_sample_size,
    least_effective,
    log_mean_exp,
    mean_of,
    mean_of_weights,
)
from made_fast.sampling.weighted import WeightedSamples, warn_if_uneven


def test_a_mean_and_its_error() -> None:
    found = mean_of(torch.tensor([[1, 2, 3, 6], [5, 5, 5, 5]]))
    assert found.value.tolist() == [3, 5]
    assert found.standard_error[0].item() == pytest.approx(math.sqrt(14 / 3) / 2)
    assert found.standard_error[1] == 0
    assert found.value.dtype == found.standard_error.dtype == torch.float64


def test_one_sample_has_no_error() -> None:
    for found in (mean_of(torch.ones(3, 1)), mean_of_weights(torch.zeros(3, 1)), log_mean_exp(torch.zeros(3, 1))):
        assert found.value.isfinite().all()
        assert found.standard_error.isnan().all()
        assert found.value.shape == found.standard_error.shape == (3,)


def test_sums_are_made_in_fp64() -> None:
    values = torch.full((2**20,), 0.1)
    found = mean_of(values)
    assert found.value.item() == pytest.approx(float(values[0]), rel=1e-12)


def test_weights_by_their_logs() -> None:
    weights = torch.tensor([0.5, 0.25, 0.0, 1.0], dtype=torch.float64)
    found, log = mean_of_weights(weights.log()), log_mean_exp(weights.log())
    torch.testing.assert_close(found.value, weights.mean())
    torch.testing.assert_close(log.value, weights.mean().log())
    torch.testing.assert_close(log.standard_error, found.standard_error / found.value)


@pytest.mark.parametrize("shift", [-1e5, -800.0, 800.0, 1e5])
def test_logs_of_weights_beyond_the_range_of_numbers(shift: float) -> None:
    log_weight = torch.tensor([0.0, -1.0, 0.5], dtype=torch.float64)
    found, plain = log_mean_exp(log_weight + shift), log_mean_exp(log_weight)
    torch.testing.assert_close(found.value, plain.value + shift)
    torch.testing.assert_close(found.standard_error, plain.standard_error, rtol=1e-9, atol=0)


def test_weights_that_are_all_zero() -> None:
    nothing = torch.full((2, 4), -torch.inf)
    assert mean_of_weights(nothing).value.tolist() == [0, 0]
    found = log_mean_exp(nothing)
    assert (found.value == -torch.inf).all()
    assert found.standard_error.isnan().all()


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_intervals_cover_as_often_as_they_say(level: float) -> None:
    """4,000 estimates of 400 draws each; within 5 standard errors of the share."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(4000, 400, generator=generator, dtype=torch.float64)
    error = math.sqrt(level * (1 - level) / 4000)
    for found, truth in (
        (mean_of(draws), 0.0),
        (mean_of_weights(0.3 * draws), math.exp(0.045)),
        (log_mean_exp(0.3 * draws), 0.045),
    ):
        low, high = found.interval(level)
        share = ((low <= truth) & (truth <= high)).double().mean().item()
        assert abs(share - level) < 5 * error + 0.01, share  # the last two are skewed a little


@pytest.mark.parametrize("shift", [0.0, -1e5, 1e5])
def test_what_weights_leave_of_samples(shift: float) -> None:
    weights = torch.tensor([[1.0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [4, 2, 1, 1]], dtype=torch.float64)
    found = effective_sample_size(weights.log() + shift)
    torch.testing.assert_close(found, torch.tensor([4, 2, 1, 64 / 22], dtype=torch.float64), rtol=1e-9, atol=0)
    assert effective_sample_size(torch.full((3,), -torch.inf)) == 0
    assert effective_sample_size(torch.zeros(3, 5)).tolist() == [5, 5, 5]


def test_the_error_of_a_log_says_what_weights_leave() -> None:
    draws = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, error = effective_sample_size(draws), log_mean_exp(draws).standard_error
    assert left.item() == pytest.approx(20_000 / (1 + 19_999 * error.item() ** 2))
    assert left.item() == pytest.approx(20_000 / math.e, rel=0.05)  # of normal logs: n exp(-variance)


def _shares(size: int, count: int) -> torch.Tensor:
    """Logs of weights of which so many are 1 and the others 0."""
    return torch.where(torch.arange(count) < size, 0.0, -torch.inf)


@pytest.mark.parametrize(
    ("size", "count", "warned"),
    [(9, 100, True), (10, 100, False), (49, 1000, True), (50, 1000, False), (3, 8, True), (4, 8, False), (1, 1, False)],
)
def test_a_warning_where_little_is_left(size: int, count: int, warned: bool) -> None:
    assert (size < least_effective(count)) == warned
    rows = torch.stack([_shares(size, count), torch.zeros(count)])
    for log_weight, where in ((_shares(size, count), "^the weights"), (rows, "^in 1 of 2 rows the weights")):
        if warned:
            with pytest.warns(UserWarning, match=f"{where}.* {count} samples are worth {size}.0 .*; draw more"):
                warn_if_uneven(log_weight, "draw more", stacklevel=1)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warn_if_uneven(log_weight, "draw more", stacklevel=1)


def test_weighted_samples_say_what_they_are_worth() -> None:
    model, late, early = MADE(6, (), direct=True), torch.arange(6) == 5, torch.arange(6) < 3
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        (direct,) = (each for each in model.parameters() if each.shape == (6, 6))
        direct[5, :5] = 1.0  # the last is likelier with each 1 before it
    given = torch.stack([torch.ones(6), torch.zeros(6)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = model.sample(50, seed=0, given=given, observed=early)
        torch.testing.assert_close(exact.effective_sample_size, torch.full((2,), 50.0).double())
        x, _ = model.sample(1, seed=0, given=given, observed=late)
        assert x.shape == (2, 1, 6)
    drawn = model.sampler().sample(400, seed=0, given=torch.ones(6), observed=late)
    assert isinstance(drawn, WeightedSamples)
    weight = drawn.log_weight.double().exp()
    assert 50 < drawn.effective_sample_size < 399
    torch.testing.assert_close(drawn.effective_sample_size, weight.sum() ** 2 / (weight**2).sum())
    assert repr(drawn).endswith(f", effective_sample_size={drawn.effective_sample_size})")
    _, log_weight = drawn
    assert log_weight is drawn.log_weight
    with torch.no_grad():
        direct[5, :5] = 8.0
        model.parameters_layer.bias[5] = -40.0  # only five ones, of which one row in 32 has them, explain another
    with pytest.warns(UserWarning, match="uneven: 400 samples are worth .*draw more, or train") as found:
        scored = model.sample_and_log_prob(400, seed=0, given=torch.ones(6), observed=late)
    assert found[0].filename == __file__
    assert "log_prob=" in repr(scored) and 5 < scored.effective_sample_size < 20


def test_the_effective_sample_size_of_anything_that_is_weighed() -> None:
    assert float(estimation.effective_sample_size([0.0, 0.0, -torch.inf])) == pytest.approx(2)
    assert estimation.effective_sample_size(torch.zeros(2, 1)).tolist() == [1, 1]
    for wrong, said in ((torch.zeros(2, 0), "n one or more"), ([0.0, torch.inf], "got inf"), ([0.0, torch.nan], "nan")):
        with pytest.raises(ValueError, match=rf"log_weights must .*{said}"):
            estimation.effective_sample_size(wrong)


def test_a_free_energy_warns_where_few_samples_carry_it() -> None:
    """Of independent fair bits one state of 32 has nearly all the mass."""
    model = MADE(5, ())
    with torch.no_grad():
        model.parameters_layer.bias.zero_()
    with pytest.warns(UserWarning, match="600 samples are worth 1.*train longer, or draw more") as warned:
        found = estimation.free_energy(model, lambda x: -20 * x.prod(-1), 600, seed=0)
    assert warned[0].filename == __file__
    assert "effective_sample_size=" in repr(found)
    assert 10 < float(found.effective_sample_size) < 30
